"""Plausible wrong answers to chapter 12's exercises, and a phrase of what the check must say to each."""

import math
from statistics import NormalDist

import torch

N = NormalDist()


def left(w, tau):
    return N.cdf(N.inv_cdf(w) / tau)


def power(w, k):
    return w**k / (w**k + (1 - w) ** k)


def tempered(w, tau):
    return power(w, 1 / tau**2)


def length(u):
    return math.sqrt((1 - u) ** 2 + u**2)


def straight(a, b, u):
    return (1 - u) * a + u * b


def repaired(a, b, u):
    return straight(a, b, u) / length(u)


def quarter(a, b, u):
    return math.cos(math.pi / 2 * u) * a + math.sin(math.pi / 2 * u) * b


def slerp(a, b, u):
    a_, b_ = a.flatten(1), b.flatten(1)
    angle = torch.acos((a_ * b_).sum(1) / (a_.norm(dim=1) * b_.norm(dim=1)))[:, None, None]
    return (torch.sin((1 - u) * angle) * a + torch.sin(u * angle) * b) / torch.sin(angle)


def affine(x):
    return torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)


def rest(c, columns):
    return c - columns @ torch.linalg.lstsq(columns, c).solution


def corr(a, b):
    return float((a * b).sum() / (a.norm() * b.norm()))


def centred(a):
    return a - a.mean(0)


def root(m):
    values, vectors = torch.linalg.eigh(m)
    return vectors @ values.rsqrt().diag() @ vectors.mT


def right_matrix(C, K):
    return root(root(K) @ C @ root(K)) @ root(K)


WRONG = {
    "ex-12-temperature": [
        ((lambda w, tau: w, tempered), "the codes move"),
        ((lambda w, tau: N.cdf(N.inv_cdf(w) * tau), tempered), "moves the watershed"),
        ((lambda w, tau: 1 - left(w, tau), tempered), "right hill's share"),
        ((lambda w, tau: left(w, tau**2), tempered), "not by its square"),
        ((tempered, tempered), "tempered law's share"),
        ((lambda w, tau: N.inv_cdf(w) / tau, tempered), "which share lies left"),
        ((left, lambda w, tau: w ** (1 / tau**2)), "the sum 1"),
        ((left, lambda w, tau: power(w, 1 / tau)), "not 1/tau"),
        ((left, lambda w, tau: power(w, tau**2)), "not tau²"),
        ((left, lambda w, tau: power(w, tau)), "cold means"),
        ((left, left), "what scaling the codes does"),
    ],
    "ex-12-shell": [
        ((lambda u: length(u) ** 2, repaired), "its root is wanted"),
        ((lambda u: 1.0, repaired), "at right angles"),
        ((lambda u: 1 / length(u), repaired), "would repair"),
        ((length, straight), "unrepaired"),
        ((length, lambda a, b, u: straight(a, b, u) / length(u) ** 2), "the root of the sum of squares"),
        ((length, quarter), "the quarter turn"),
        ((length, slerp), "not finite"),
        ((length, lambda a, b, u: quarter(b, a, u)), "must be a"),
        ((length, lambda a, b, u: repaired(a, b, u).flatten(1)), "must have a's shape"),
        ((length, lambda a, b, u: (repaired(a, b, u)) ** 2), "not linear"),
    ],
    "ex-12-seeds": [
        (lambda x, a, b: corr(centred(a), centred(b)), "nothing was subtracted"),
        (lambda x, a, b: corr(a, b), "not even the means"),
        (lambda x, a, b: corr(rest(a, x), rest(b, x)), "has a constant"),
        (lambda x, a, b: corr(centred(rest(a, x)), centred(rest(b, x))), "slopes and constant together"),
        (lambda x, a, b: corr(rest(a, affine(x)), centred(b)), "from a alone"),
        (lambda x, a, b: corr(rest(a, torch.cat([affine(x), b], 1)), rest(b, affine(x))), "each of them by x"),
        (lambda x, a, b: corr(a - x, b - x), "subtracts x itself"),
        (lambda x, a, b: corr(rest(a, affine(x)), rest(b, affine(x))) ** 2, "square of the correlation"),
    ],
    "ex-12-breaks": [
        (lambda C, K: root(C), "round noise"),
        (lambda C, K: root(root(K) @ C @ root(K)), "in terms of x"),
        (lambda C, K: root(K) @ root(root(K) @ C @ root(K)), "changed first"),
        (lambda C, K: root(C) @ root(K), "whiten that of"),
        (lambda C, K: torch.linalg.inv(right_matrix(C, K)), "which decodes"),
        (lambda C, K: torch.linalg.inv(torch.linalg.cholesky(C)), "knows nothing of K"),
        (lambda C, K: root(K @ C @ K) @ K, "divided out"),
    ],
}
