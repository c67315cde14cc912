"""Schedules: the learning rate, or another hyperparameter, as a function of the step.

A schedule is a pure function `step -> number`. The step counts from 0 and may be an int, a tracer or an array:
`schedule(jnp.arange(100))` is a whole curve. Optimizers accept a schedule in place of their learning rate.
Each argument that is a number must be finite, or a tracer; anything else raises a TypeError or ValueError by its name.
"""
