"""Recovery: what an approximate rewrite lost is brought back by imitating the original model on unlabelled inputs."""
