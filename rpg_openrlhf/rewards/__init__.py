"""The grader. grading.py compares the answer of a response with the gold answer; reward_func.py is upstream's entry.

A response passes extraction.py (text of the answer), lexer.py, answers.py (grammar) and comparison.py.
"""
