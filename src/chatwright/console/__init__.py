"""What the command line does besides running recipes: starting a project, talking to a model, looking at a
machine.
"""
