"""Calculator: word problems of several steps with an exact checker."""

from at2po_envs.calculator.env import CalculatorEnv
from at2po_envs.calculator.experts import StepByStepAgent
from at2po_envs.calculator.problems import draw_problems

__all__ = ["CalculatorEnv", "StepByStepAgent", "draw_problems"]
