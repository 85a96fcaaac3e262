"""An OpenAI-compatible endpoint as an agent."""
