"""One script per figure or table of the paper; each draws finished artefacts, computes nothing new.

python -m analyses.all_figures
"""
