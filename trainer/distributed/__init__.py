"""Ranks: process groups, the engines that move the weights, and the processes themselves."""
