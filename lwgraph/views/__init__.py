"""Views of a graph, for questions that the IR does not answer itself. Views never change the model."""
