"""Matched filters with competition: learned from few spikes, probe-agnostic, many times real time.

Traces are band-passed and decimated, whitened over neighbouring channels, and filtered by a temporal bank
that all channels share. Each unit is a sparse linear function of that: its score is the energy that a spike
of it would explain. The post-processing's conflict graph then explains the recording away.

Shapes, beside those of `esort.network`: T rows of the reduced rate, L rows of a footprint, M channels of one.
"""
