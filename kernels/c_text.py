"""C text of scalar operations on vectors of floats, and the helpers that generated C functions call.

Everything is written in the vector extensions that gcc and clang share, so no header is included, no library is
called and nothing is left to an automatic vectoriser: a file compiles in a fraction of a second. A vector has as many
lanes as the machine's registers. Infinities and NaN pass through the helpers as they do through the C library.
"""

from __future__ import annotations

import math

HEAD = """\
#if defined(__AVX512F__)
#define W 16
#elif defined(__AVX__)
#define W 8
#else
#define W 4
#endif
typedef float vf __attribute__((vector_size(4 * W)));
typedef int vi __attribute__((vector_size(4 * W)));
typedef double vd __attribute__((vector_size(8 * W)));
#define INLINE static inline __attribute__((always_inline, unused))
#define SPLAT(a) ((a) - (vf){0})
#define PAD(n) (((n) + 15) / 16 * 16)
#define CHUNK 4096
#define PENDING 256

/* fused where the machine can, for polynomials; everything else is rounded as it is written */
#if W == 16 && !defined(__clang__)
#define FMA(a, b, c) __builtin_ia32_vfmaddps512_mask(a, b, c, (unsigned short)-1, 4)
#elif W == 8 && defined(__FMA__) && !defined(__clang__)
#define FMA(a, b, c) __builtin_ia32_vfmaddps256(a, b, c)
#elif defined(__clang__) && defined(__has_builtin)
#if __has_builtin(__builtin_elementwise_fma)
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#endif
#endif
#ifndef FMA
#define FMA(a, b, c) ((a) * (b) + (c))
#endif

INLINE vf load(const float *p) { vf a; __builtin_memcpy(&a, p, 4 * W); return a; }
INLINE void store(float *p, vf a) { __builtin_memcpy(p, &a, 4 * W); }
#if W == 16
INLINE vf load_some(const float *p, int m) {
  return m >= W ? load(p) : (vf)__builtin_ia32_loadups512_mask(p, (vf){0}, (unsigned short)((1u << m) - 1));
}
INLINE void store_some(float *p, vf a, int m) {
  if (m >= W) store(p, a); else __builtin_ia32_storeups512_mask(p, a, (unsigned short)((1u << m) - 1));
}
#else
INLINE vf load_some(const float *p, int m) {
  if (m >= W) return load(p);
  float some[W] = {0};
  for (int l = 0; l < m; l++) some[l] = p[l];
  return load(some);
}
INLINE void store_some(float *p, vf a, int m) {
  if (m >= W) { store(p, a); return; }
  float some[W];
  store(some, a);
  for (int l = 0; l < m; l++) p[l] = some[l];
}
#endif
INLINE vi lanes(int m) {
  vi n;
  for (int l = 0; l < W; l++) n[l] = l;
  return n < m;
}
INLINE vf keep(vi live, vf a) { return (vf)(live & (vi)a); }
INLINE vf pick(vi m, vf a, vf b) { return (vf)((m & (vi)a) | (~m & (vi)b)); }
typedef float v4 __attribute__((vector_size(16)));
INLINE v4 quarter(const vf *a, int n) { v4 q; __builtin_memcpy(&q, (const char *)a + 16 * n, 16); return q; }
INLINE double total(vf a) {
  v4 q = quarter(&a, 0);
  for (int n = 1; n < W / 4; n++) q += quarter(&a, n);
  return (double)((q[0] + q[1]) + (q[2] + q[3]));
}
static __attribute__((noinline, unused)) double total_seldom(vf a) { return total(a); }
INLINE void add_wide(double *p, vf a) {
  vd sum;
  __builtin_memcpy(&sum, p, 8 * W);
  sum += __builtin_convertvector(a, vd);
  __builtin_memcpy(p, &sum, 8 * W);
}
"""

# exp, tanh and log follow Cephes' single-precision functions (Moshier 1989); erf is the rational approximation of
# Eigen and XLA, odd polynomial over even polynomial on [-4, 4].
_HELPERS: dict[str, tuple[tuple[str, ...], str]] = {
    "v_abs": ((), "INLINE vf v_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }"),
    "v_max": ((), "INLINE vf v_max(vf a, vf b) { return pick((a > b) | (a != a), a, b); }"),
    "v_min": ((), "INLINE vf v_min(vf a, vf b) { return pick((a < b) | (a != a), a, b); }"),
    "v_sqrt": ((), """\
INLINE vf v_sqrt(vf a) {
  float s[W] __attribute__((aligned(4 * W)));
  store(s, a);
  for (int l = 0; l < W; l++) s[l] = __builtin_sqrtf(s[l]);
  return load(s);
}"""),
    "v_exp": ((), """\
INLINE vf v_exp(vf a) {
  a = pick(a > 89.0f, SPLAT(89.0f), a);
  a = pick(a < -104.0f, SPLAT(-104.0f), a);
  vf n = FMA(a, SPLAT(1.44269504088896341f), SPLAT(12582912.0f)) - 12582912.0f;
  vf r = FMA(n, SPLAT(2.12194440e-4f), FMA(n, SPLAT(-0.693359375f), a));
  vf p = FMA(SPLAT(1.9875691500e-4f), r, SPLAT(1.3981999507e-3f));
  p = FMA(p, r, SPLAT(8.3334519073e-3f));
  p = FMA(p, r, SPLAT(4.1665795894e-2f));
  p = FMA(p, r, SPLAT(1.6666665459e-1f));
  p = FMA(p, r, SPLAT(5.0000001201e-1f));
  p = FMA(p, r * r, r) + 1.0f;
  vi k = __builtin_convertvector(pick(n == n, n, (vf){0}), vi), half = k >> 1;
  return p * (vf)((half + 127) << 23) * (vf)((k - half + 127) << 23);
}"""),
    "v_log": ((), """\
INLINE vf v_log(vf a) {
  vi small = a < 1.17549435e-38f;
  vf x = pick(small, a * 8388608.0f, a);
  vi bits = (vi)x, e = ((bits >> 23) & 255) - 126 - (small & 23);
  vf m = (vf)((bits & 0x007fffff) | 0x3f000000);
  vi low = m < 0.707106781186547524f;
  vf n = __builtin_convertvector(e + low, vf), r = pick(low, m + m, m) - 1.0f, s = r * r;
  vf p = FMA(SPLAT(7.0376836292e-2f), r, SPLAT(-1.1514610310e-1f));
  p = FMA(p, r, SPLAT(1.1676998740e-1f));
  p = FMA(p, r, SPLAT(-1.2420140846e-1f));
  p = FMA(p, r, SPLAT(1.4249322787e-1f));
  p = FMA(p, r, SPLAT(-1.6668057665e-1f));
  p = FMA(p, r, SPLAT(2.0000714765e-1f));
  p = FMA(p, r, SPLAT(-2.4999993993e-1f));
  p = FMA(p, r, SPLAT(3.3333331174e-1f));
  vf y = r + (p * (r * s) - n * 2.12194440e-4f - 0.5f * s) + n * 0.693359375f;
  y = pick(a < __builtin_inff(), y, a);
  return pick(a > 0.0f, y, pick(a == 0.0f, SPLAT(-__builtin_inff()), a * __builtin_nanf("")));
}"""),
    "v_sigmoid": (("v_exp",), "INLINE vf v_sigmoid(vf a) { return 1.0f / (1.0f + v_exp(-a)); }"),
    "v_tanh": (("v_exp",), """\
INLINE vf v_tanh(vf a) {
  vf s = a * a, p = FMA(SPLAT(-5.70498872745e-3f), s, SPLAT(2.06390887954e-2f));
  p = FMA(p, s, SPLAT(-5.37397155531e-2f));
  p = FMA(p, s, SPLAT(1.33314422036e-1f));
  p = FMA(p, s, SPLAT(-3.33332819422e-1f));
  return pick(s < 0.390625f, FMA(a * s, p, a), 1.0f - 2.0f / (v_exp(a + a) + 1.0f));
}"""),
    "v_erf": ((), """\
INLINE vf v_erf(vf a) {
  a = pick(a > 4.0f, SPLAT(4.0f), a);
  a = pick(a < -4.0f, SPLAT(-4.0f), a);
  vf s = a * a, p = FMA(SPLAT(-2.72614225801306e-10f), s, SPLAT(2.77068142495902e-08f));
  p = FMA(p, s, SPLAT(-2.10102402082508e-06f));
  p = FMA(p, s, SPLAT(-5.69250639462346e-05f));
  p = FMA(p, s, SPLAT(-7.34990630326855e-04f));
  p = FMA(p, s, SPLAT(-2.95459980854025e-03f));
  p = FMA(p, s, SPLAT(-1.60960333262415e-02f));
  vf q = FMA(SPLAT(-1.45660718464996e-05f), s, SPLAT(-2.13374055278905e-04f));
  q = FMA(q, s, SPLAT(-1.68282697438203e-03f));
  q = FMA(q, s, SPLAT(-7.37332916720468e-03f));
  q = FMA(q, s, SPLAT(-1.42647390514189e-02f));
  return a * p / q;
}"""),
}  # fmt: skip
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_CALLS = {op: f"v_{op}" for op in ("abs", "max", "min", "sqrt", "exp", "log", "sigmoid", "tanh", "erf")}

#: What an expression is: a number of one float, a vector of floats, or a vector of all-ones and zeros.
NUMBER, VECTOR, MASK = "number", "vector", "mask"
Text = tuple[str, str]


def number(value: float) -> str:
    """A float32 literal."""
    if math.isnan(value):
        return '__builtin_nanf("")'
    if abs(value) > 3.4028235e38:
        return f"({'-' if value < 0 else ''}__builtin_inff())"
    text = f"{value:.9g}"
    text = text if any(c in text for c in ".e") else f"{text}.0"
    return f"({text}f)" if text.startswith("-") else f"{text}f"


def vector(part: Text) -> str:
    """The text as a vector of floats."""
    text, kind = part
    if kind == NUMBER:
        return f"SPLAT({text})"
    return text if kind == VECTOR else f"pick({text}, SPLAT(1.0f), (vf){{0}})"


def mask(part: Text) -> str:
    """The text as a vector of all-ones where it is not zero."""
    return part[0] if part[1] == MASK else f"({vector(part)} != 0.0f)"


def operation(op: str, args: list[Text], used: set[str]) -> Text:
    """An operation of the IR on atoms. ``used`` collects the helpers; numbers alone give a number."""
    if all(kind == NUMBER for _, kind in args):
        return _on_numbers(op, [text for text, _ in args], used), NUMBER
    if op in ("lt", "gt"):
        return f"({vector(args[0])} {'<' if op == 'lt' else '>'} {vector(args[1])})", MASK
    if op == "where":
        return f"pick({mask(args[0])}, {vector(args[1])}, {vector(args[2])})", VECTOR
    if op in _INFIX:
        left, right = (text if kind == NUMBER else vector((text, kind)) for text, kind in args)
        return f"({left} {_INFIX[op]} {right})", VECTOR
    vectors = [vector(a) for a in args]
    if op == "neg":
        return f"(-{vectors[0]})", VECTOR
    if op == "recip":
        return f"(1.0f / {vectors[0]})", VECTOR
    if op == "rsqrt":
        used.add("v_sqrt")
        return f"(1.0f / v_sqrt({vectors[0]}))", VECTOR
    used.add(_CALLS[op])
    return f"{_CALLS[op]}({', '.join(vectors)})", VECTOR


def _on_numbers(op: str, args: list[str], used: set[str]) -> str:
    a, b = args[0], args[-1]
    simple = {
        "lt": f"(float)({a} < {b})", "gt": f"(float)({a} > {b})", "neg": f"(-{a})",
        "recip": f"(1.0f / {a})", "sqrt": f"__builtin_sqrtf({a})", "rsqrt": f"(1.0f / __builtin_sqrtf({a}))",
        "abs": f"__builtin_fabsf({a})",
    }  # fmt: skip
    if op in _INFIX:
        return f"({a} {_INFIX[op]} {b})"
    if op in simple:
        return simple[op]
    if op == "where":
        return f"({a} != 0.0f ? {args[1]} : {b})"
    if op in ("max", "min"):
        sign = ">" if op == "max" else "<"
        return f"({a} {sign} {b} || {a} != {a} ? {a} : {b})"
    used.add(_CALLS[op])
    return f"{_CALLS[op]}(SPLAT({a}))[0]"


def helpers(used: set[str]) -> str:
    """Definitions of those helpers and of what they call."""
    wanted = used | {name for u in used for name in _HELPERS[u][0]}
    return "\n".join(text for name, (_, text) in _HELPERS.items() if name in wanted)
