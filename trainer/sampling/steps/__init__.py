"""Grids of times on which few steps of Euler's method come near many: the search behind the steps verb.

The parts are functions of a field and of noises, without a run:

    solutions = [fine_solution(field, x_0, nodes=100)]        # fine.py: states and velocities of 100 equal steps
    cost = cost_matrix(solutions)                             # search.py: float64 [101, 101]
    grid = chord_grid(cost, evaluations=4)                    # integer nodes (0, .., 100), 5 of them
    found = endpoint_grid(solutions, 4, starts=(uniform_grid(100, 4), grid))      # .grid, .error
    times = times_of(found.grid, 100)                         # fine.py: floats from 0 to 1

``search`` does so for a trained flow, whose conditions, guidance and segments of time it knows. The driver of the verb,
`trainer.evaluation.steps.run.run`, also measures the grids and writes the file, whose class is
`trainer.flow.sampler.protocol.StepsFile`.
"""
