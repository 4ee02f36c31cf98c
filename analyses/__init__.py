"""The figures and tables of the paper, one file each, drawn from finished artefacts.

python -m analyses --help
"""
