"""skilloc: which parts of a network carry a skill, how local is it, and if they are removed, does it stay removed?"""
