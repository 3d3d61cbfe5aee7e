"""Attacks on our own privacy promise, and checks of the code that makes it.

A guarantee that nobody has attacked is a belief. What is here tries to break it, in the
four ways that a hospital's data officer would ask about:

- `canaries`: how much epsilon can be *proven* from outside, with made-up patients;
- `membership`: can somebody tell who took part?
- `reconstruction`: what does one update show of one patient?
- `checks`: does the code do what the accountant was told that it does?

An attack that fails proves nothing. What it finds is a lower bound: the accountant's
epsilon is the promise, the attack's is what is certainly lost.
"""
