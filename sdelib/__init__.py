"""Score-based generative modelling through stochastic differential equations."""

__version__ = "0.1.0"
