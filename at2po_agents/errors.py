"""Errors of at2po_agents; each states what was expected, what was found, and the fix."""

from __future__ import annotations


class AgentError(Exception):
    """Base class of all errors of this package."""


class ConfigError(AgentError, ValueError):
    """A setting is outside its allowed range."""


class TreeError(AgentError, ValueError):
    """A rollout tree is not in the state that an operation needs."""


class UnsupportedModelError(AgentError, ValueError):
    """A model has a feature that packed training or the engine would silently get wrong."""


class ModelNotFoundError(AgentError, FileNotFoundError):
    """No model answers to the given name in any of the places that were looked at."""


class WeightsError(AgentError, ValueError):
    """A set of weights does not fit the model that should take it."""


class TokenizerError(AgentError, ValueError):
    """A tokenizer cannot carry what an environment's dialect writes and reads."""


class RequestError(AgentError, ValueError):
    """A generation request cannot be served exactly as it was asked."""


class EngineBusyError(AgentError, RuntimeError):
    """The operation needs an engine without running or waiting requests."""


class EngineUnavailableError(AgentError, RuntimeError):
    """The engine sleeps, or was closed."""


class EngineServerError(AgentError, RuntimeError):
    """A server that generates cannot be reached, refused a request, or replied with nonsense."""


class NonFiniteLogitsError(AgentError, FloatingPointError):
    """The model produced logits that define no distribution."""


class CheckpointError(AgentError, RuntimeError):
    """A run's folder is in use, or a checkpoint in it is corrupt, another run's, or unwritable."""


class MetricsError(AgentError, ValueError):
    """A metrics file is damaged, or a row does not continue it."""


class DivergedError(AgentError, RuntimeError):
    """Too many training steps in a row had a loss or gradient that is not finite."""


class EvaluationFailedError(AgentError, RuntimeError):
    """No episode of an evaluation could be played: there is nothing to say of the agent."""


class EnvironmentNotFoundError(AgentError, ValueError):
    """No environment that rollouts can fork has the given id and options."""


class AgentUnusableError(AgentError):
    """An agent cannot write a turn of any episode: an evaluation ends rather than fail them all."""


class EndpointError(AgentError):
    """An endpoint did not give the turn that it was asked for."""


class ToolsUnavailableError(AgentError, RuntimeError):
    """Tools did not come back in time: the run pauses rather than learn from their errors."""


class WorkersLostError(AgentError, RuntimeError):
    """Processes of a run died or hung more often than it may replace them."""


class LearnerLostError(AgentError, RuntimeError):
    """A rank of the learner died or hung: all of them begin again from the last checkpoint."""
