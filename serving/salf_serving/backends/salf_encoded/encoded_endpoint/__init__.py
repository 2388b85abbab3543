"""The parts of Triton's backend `salf_encoded`; model.py beside this folder puts them together."""
