/* One time step of a recurrent language model for one stream, and the draw of a token, in plain C.

   kernel.py compiles this on the user's machine and lays out the weights; cells.py and sampling.py are the same
   equations in NumPy, which serve wherever there is no compiler. Nothing is allocated here and nothing is kept but what
   `struct net` points at.

   Two layouts of a matrix (in, out):
   * fp32, `scale` null: panels of 64 columns, [out / 64][in][64], padded with zeros. Memory is read once, in order, into
     eight vector accumulators, which is what a matrix-vector product can ask of a cache.
   * int8, `scale` one factor a column: rows [out][in]. The vector is rounded to 14 bits for the product, so that sums of
       1024 products fit an int32; all rounding that is felt is that of the weights. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#define PANEL 64
#define CHUNK 512 /* pairs */
#define FINEST 8191.0f

typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));

struct matrix { const void *weights; const float *scale; int64_t in, out; };

/* `recurrent` is (H, G*H), above the first layer of LSTM and RNN (2H, G*H) for [x; h]; `input` is (H, G*H) above the
   first layer of a GRU. `bias` (G*H) is that of a layer above the first, `bias_n` (H) the GRU's inner one. */
struct layer { struct matrix recurrent, input; const float *bias, *bias_n; };

/* `state` holds arrays of H floats: h, c of each layer (LSTM) or h of each. `work` has room for 4H + 64 + 2 * G*H floats, the
   last padded; `logits` for V, padded. cell: 0 LSTM, 1 GRU, 2 RNN with tanh, 3 RNN with relu. */
struct net {
    int64_t cell, layers, hidden, vocabulary;
    const struct layer *layer;
    struct matrix output;
    const float *output_bias;
    float *state, *work, *logits;
};

/* e**x, relative error below 3e-7, for x from -87 to 88; further out the value at that end. x = n ln 2 + r, with ln 2 in
   two parts so that n ln 2 is exact (Cody and Waite 1980), and eight terms of the series for e**r, |r| <= ln(2) / 2. */
static inline float exp_(float x)
{
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float whole = x * 1.44269504f + 12582912.0f; /* 1.5 * 2**23: the sum is rounded to a whole number */
    int32_t bits;
    memcpy(&bits, &whole, 4);
    float n = whole - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.0f / 720 + r * (1.0f / 5040);
    y = 1.0f + r * (1.0f + r * (0.5f + r * (1.0f / 6 + r * (1.0f / 24 + r * (1.0f / 120 + r * y)))));
    uint32_t power = ((uint32_t)bits << 23) + (127u << 23);
    float two;
    memcpy(&two, &power, 4);
    return y * two;
}

static inline float tanh_(float x)
{
    return 1.0f - 2.0f / (exp_(2.0f * x) + 1.0f);
}

static void product_fp32(const struct matrix *m, const float *x, float *y)
{
    const float *w = m->weights;
    for (int64_t column = 0; column < m->out; column += PANEL) {
        lanes a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0};
        int64_t k = 0;
        for (; k + 1 < m->in; k += 2, w += 2 * PANEL) {
            float u = x[k], v = x[k + 1];
            a0 += u * *(const lanes *)w;
            a1 += u * *(const lanes *)(w + 16);
            a2 += u * *(const lanes *)(w + 32);
            a3 += u * *(const lanes *)(w + 48);
            b0 += v * *(const lanes *)(w + 64);
            b1 += v * *(const lanes *)(w + 80);
            b2 += v * *(const lanes *)(w + 96);
            b3 += v * *(const lanes *)(w + 112);
        }
        if (k < m->in) {
            a0 += x[k] * *(const lanes *)w;
            a1 += x[k] * *(const lanes *)(w + 16);
            a2 += x[k] * *(const lanes *)(w + 32);
            a3 += x[k] * *(const lanes *)(w + 48);
            w += PANEL;
        }
        lanes *out = (lanes *)(y + column);
        out[0] = a0 + b0, out[1] = a1 + b1, out[2] = a2 + b2, out[3] = a3 + b3;
    }
}

/* sums[j] += the products of 64 columns with `pairs` pairs of numbers: w is [pairs][64][2]. */
#if defined(__AVX512BW__)
#include <immintrin.h>
#if defined(__AVX512VNNI__)
#define ADDED(sum, wide, pair) _mm512_dpwssd_epi32(sum, wide, pair)
#else
#define ADDED(sum, wide, pair) _mm512_add_epi32(sum, _mm512_madd_epi16(wide, pair))
#endif
#define WIDE(part) _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(w + 32 * (part))))
static __m512i twice(const int16_t *x)
{
    int32_t pair;
    memcpy(&pair, x, 4);
    return _mm512_set1_epi32(pair);
}

static void add_products(const int8_t *w, const int16_t *x, int64_t pairs, int32_t *sums)
{
    __m512i a0 = _mm512_setzero_si512(), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0;
    int64_t k = 0;
    for (; k + 1 < pairs; k += 2, w += 4 * PANEL) {
        __m512i u = twice(x + 2 * k), v = twice(x + 2 * k + 2);
        a0 = ADDED(a0, WIDE(0), u), a1 = ADDED(a1, WIDE(1), u), a2 = ADDED(a2, WIDE(2), u), a3 = ADDED(a3, WIDE(3), u);
        b0 = ADDED(b0, WIDE(4), v), b1 = ADDED(b1, WIDE(5), v), b2 = ADDED(b2, WIDE(6), v), b3 = ADDED(b3, WIDE(7), v);
    }
    if (k < pairs) {
        __m512i u = twice(x + 2 * k);
        a0 = ADDED(a0, WIDE(0), u), a1 = ADDED(a1, WIDE(1), u), a2 = ADDED(a2, WIDE(2), u), a3 = ADDED(a3, WIDE(3), u);
    }
    _mm512_storeu_si512(sums, _mm512_add_epi32(a0, b0)), _mm512_storeu_si512(sums + 16, _mm512_add_epi32(a1, b1));
    _mm512_storeu_si512(sums + 32, _mm512_add_epi32(a2, b2)), _mm512_storeu_si512(sums + 48, _mm512_add_epi32(a3, b3));
}
#elif defined(__AVX2__)
#include <immintrin.h>
static void add_products(const int8_t *w, const int16_t *x, int64_t pairs, int32_t *sums)
{
    __m256i a[8];
    for (int part = 0; part < 8; part++)
        a[part] = _mm256_setzero_si256();
    for (int64_t k = 0; k < pairs; k++, w += 2 * PANEL) {
        int32_t pair;
        memcpy(&pair, x + 2 * k, 4);
        __m256i v = _mm256_set1_epi32(pair);
#pragma GCC unroll 8
        for (int part = 0; part < 8; part++) {
            __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(w + 16 * part)));
            a[part] = _mm256_add_epi32(a[part], _mm256_madd_epi16(wide, v));
        }
    }
    for (int part = 0; part < 8; part++)
        _mm256_storeu_si256((__m256i *)(sums + 8 * part), a[part]);
}
#else
static void add_products(const int8_t *w, const int16_t *x, int64_t pairs, int32_t *sums)
{
    for (int j = 0; j < PANEL; j++)
        sums[j] = 0;
    for (int64_t k = 0; k < pairs; k++, w += 2 * PANEL)
        for (int j = 0; j < PANEL; j++)
            sums[j] += w[2 * j] * x[2 * k] + w[2 * j + 1] * x[2 * k + 1];
}
#endif

static void product_int8(const struct matrix *m, const float *x, float *y, int16_t *rounded)
{
    float most = 1e-30f;
    int finite = 1;
    for (int64_t k = 0; k < m->in; k++) {
        float size = fabsf(x[k]);
        most = size > most ? size : most;
        finite &= size < INFINITY;
    }
    if (!finite) { /* there is no whole number for these, and a spoilt model must be found out */
        for (int64_t j = 0; j < m->out; j++)
            y[j] = NAN;
        return;
    }
    float fine = FINEST / most;
    for (int64_t k = 0; k < m->in; k++)
        rounded[k] = (int16_t)(int32_t)(x[k] * fine + (x[k] < 0 ? -0.5f : 0.5f));
    rounded[m->in] = 0; /* the other half of the last pair, if it has none */
    const int8_t *w = m->weights;
    int64_t pairs = (m->in + 1) / 2;
    for (int64_t column = 0; column < m->out; column += PANEL) {
        float total[PANEL] = {0};
        int32_t sums[PANEL];
        for (int64_t from = 0; from < pairs; from += CHUNK) {
            int64_t count = from + CHUNK < pairs ? CHUNK : pairs - from;
            add_products(w, rounded + 2 * from, count, sums);
            w += 2 * PANEL * count;
            for (int j = 0; j < PANEL; j++)
                total[j] += (float)sums[j];
        }
        for (int j = 0; j < PANEL; j++)
            y[column + j] = total[j] * m->scale[column + j] / fine;
    }
}

static void product(const struct matrix *m, const float *x, float *y, float *spare)
{
    if (m->scale)
        product_int8(m, x, y, (int16_t *)spare);
    else
        product_fp32(m, x, y);
}

static void lstm(float *restrict gates, const float *restrict added, float *restrict h, float *restrict c, int64_t size)
{
    for (int64_t j = 0; j < 4 * size; j++)
        gates[j] = tanh_(gates[j] + added[j]);
    const float *i = gates, *f = gates + size, *o = gates + 2 * size, *g = gates + 3 * size;
    for (int64_t j = 0; j < size; j++) {
        c[j] = (0.5f * f[j] + 0.5f) * c[j] + (0.5f * i[j] + 0.5f) * g[j];
        h[j] = (0.5f * o[j] + 0.5f) * tanh_(c[j]);
    }
}

/* `below` is the input's product with its biases; the recurrent part of n stands apart, because r multiplies it. */
static void gru(const float *restrict gates, const float *restrict below, const float *restrict bias_n, float *restrict h, int64_t size)
{
    for (int64_t j = 0; j < size; j++) {
        float r = 0.5f * tanh_(gates[j] + below[j]) + 0.5f;
        float z = 0.5f * tanh_(gates[size + j] + below[size + j]) + 0.5f;
        float n = tanh_((gates[2 * size + j] + bias_n[j]) * r + below[2 * size + j]);
        h[j] = (h[j] - n) * z + n;
    }
}

static void rnn(const float *restrict gates, const float *restrict added, float *restrict h, int64_t size, int relu)
{
    for (int64_t j = 0; j < size; j++) {
        float sum = gates[j] + added[j];
        h[j] = relu ? (sum < 0 ? 0 : sum) : tanh_(sum); /* nan stays nan */
    }
}

/* One time step: `row` is the token's row of the folded input (G*H); `state` and, if wanted, `logits` become the new ones. */
void charrnn_step(const struct net *net, const float *row, int64_t wants_logits)
{
    int64_t size = net->hidden, arrays = net->cell == 0 ? 2 : 1, gates = net->cell == 0 ? 4 : net->cell == 1 ? 3 : 1;
    int64_t padded = (gates * size + PANEL - 1) / PANEL * PANEL;
    float *both = net->work, *spare = both + 2 * size, *sums = spare + 2 * size + PANEL, *below = sums + padded;
    const float *x = 0;
    for (int64_t l = 0; l < net->layers; l++) {
        const struct layer *layer = net->layer + l;
        float *h = net->state + l * arrays * size;
        const float *added = l ? layer->bias : row;
        if (net->cell == 1) {
            product(&layer->recurrent, h, sums, spare);
            if (l) {
                product(&layer->input, x, below, spare);
                for (int64_t j = 0; j < gates * size; j++)
                    below[j] += layer->bias[j];
                added = below;
            }
            gru(sums, added, layer->bias_n, h, size);
        } else {
            const float *from = h;
            if (l) {
                memcpy(both, x, (size_t)size * sizeof(float));
                memcpy(both + size, h, (size_t)size * sizeof(float));
                from = both;
            }
            product(&layer->recurrent, from, sums, spare);
            if (net->cell == 0)
                lstm(sums, added, h, h + size, size);
            else
                rnn(sums, added, h, size, net->cell == 3);
        }
        x = h;
    }
    if (!wants_logits)
        return;
    product(&net->output, x, net->logits, spare);
    for (int64_t v = 0; v < net->vocabulary; v++)
        net->logits[v] += net->output_bias[v];
}

static double highest(const double *scores, int64_t count)
{
    double top = -INFINITY;
    for (int64_t v = 0; v < count; v++)
        top = scores[v] > top ? scores[v] : top;
    return top;
}

/* Weights e**((scores - top) * steepness) into `weights`, their sums by blocks of 64 into `blocks`; returns the sum. */
static double exponentials(const double *scores, int64_t count, double top, double steepness, float *weights, double *blocks)
{
    double total = 0;
    for (int64_t from = 0; from < count; from += PANEL) {
        int64_t to = from + PANEL < count ? from + PANEL : count;
        for (int64_t v = from; v < to; v++) {
            float exponent = (float)((scores[v] - top) * steepness);
            weights[v] = exponent < -87.0f ? 0.0f : exp_(exponent);
        }
        double block = 0;
        for (int64_t v = from; v < to; v++)
            block += weights[v];
        blocks[from / PANEL] = block;
        total += block;
    }
    return total;
}

/* The first token whose running sum of weights exceeds `left`; where rounding goes past the end, the last with a weight. */
static int64_t pointed_at(const float *weights, const double *blocks, int64_t count, double left)
{
    int64_t block = 0, last = 0;
    while (block < (count - 1) / PANEL && left >= blocks[block])
        left -= blocks[block++];
    for (int64_t token = block * PANEL; token < count; token++) {
        left -= weights[token];
        if (left < 0)
            return token;
    }
    for (int64_t token = 0; token < count; token++)
        last = weights[token] > 0 ? token : last;
    return last;
}

/* The token at `uniform` under logits + bias at temperature 1 / steepness (0: greedy), or -1 if there is nothing to choose
   from; its log-probability under the logits alone goes to `logprob`. Scores are doubles, as in NumPy: a bias of 1000 on a
   float would take four of its digits. `work` has room for 3V / 2 + V / 64 + 2 doubles. */
int64_t charrnn_draw(
    const float *logits, const double *bias, int64_t count, double steepness, double uniform, double *work, double *logprob)
{
    double *blocks = work, *scores = blocks + count / PANEL + 1;
    float *weights = (float *)(scores + count);
    for (int64_t v = 0; v < count; v++)
        scores[v] = logits[v];
    double peak = highest(scores, count);
    double sum = exponentials(scores, count, peak, 1.0, weights, blocks);
    if (!(sum >= 1.0)) /* nan: there is one among the logits, or an infinite one, or none above -inf */
        return -1;
    for (int64_t v = 0; v < count; v++)
        scores[v] = scores[v] - peak + bias[v];
    double top = highest(scores, count);
    if (!(fabs(top) < INFINITY))
        return -1;
    int64_t token = 0;
    if (steepness == 0)
        while (scores[token] < top)
            token++;
    else
        token = pointed_at(weights, blocks, count, uniform * exponentials(scores, count, top, steepness, weights, blocks));
    *logprob = (double)logits[token] - peak - log(sum);
    return token;
}

/* A draw from each of `rows` rows of logits, at its own number; returns how many were drawn before one with nothing to
   choose from. */
int64_t charrnn_draw_rows(
    const float *logits, const double *bias, int64_t count, double steepness, const double *uniforms, double *work,
    int64_t rows, int64_t *tokens, double *logprobs)
{
    for (int64_t i = 0; i < rows; i++) {
        tokens[i] = charrnn_draw(logits + i * count, bias, count, steepness, uniforms[i], work, logprobs + i);
        if (tokens[i] < 0)
            return i;
    }
    return rows;
}

/* Draw and read up to `most` tokens: the first from the logits of `net`, each next from those after the one before. Token
   i, its log-probability, and the state and logits after it go to row i of `tokens`, `logprobs`, `states`, `logits`.
   `rows` are the folded rows, those with a byte in `known` being made. Returns how many were drawn and read; fewer than
   `most` if the next one's row is missing or there is nothing to choose from. */
int64_t charrnn_run(
    const struct net *net, const float *rows, const uint8_t *known, const double *bias, double steepness, const double *uniforms,
    int64_t most, double *work, int64_t *tokens, double *logprobs, float *states, float *logits)
{
    int64_t vocabulary = net->vocabulary, arrays = net->cell == 0 ? 2 : 1, gates = net->cell == 0 ? 4 : net->cell == 1 ? 3 : 1;
    int64_t floats = arrays * net->layers * net->hidden;
    for (int64_t i = 0; i < most; i++) {
        int64_t token = charrnn_draw(net->logits, bias, vocabulary, steepness, uniforms[i], work, logprobs + i);
        if (token < 0 || !known[token])
            return i;
        charrnn_step(net, rows + token * gates * net->hidden, 1);
        tokens[i] = token;
        memcpy(states + i * floats, net->state, (size_t)floats * sizeof(float));
        memcpy(logits + i * vocabulary, net->logits, (size_t)vocabulary * sizeof(float));
    }
    return most;
}

/* The numbers at `position`, `position` + 1, ... that sampling.uniform gives: Philox4x64-10 (Salmon et al. 2011). */
void charrnn_uniforms(
    uint64_t seed, uint64_t seed_high, uint64_t stream, uint64_t position, uint64_t attempt, int64_t count, double *uniforms)
{
    uint64_t words[4] = {0};
    for (int64_t i = 0; i < count; i++, position++) {
        if (i == 0 || position % 4 == 0) {
            uint64_t a = position / 4 + 1, b = stream, c = attempt, d = 0, left = seed, right = seed_high;
            for (int round = 0; round < 10; round++) {
                unsigned __int128 low = (unsigned __int128)0xD2E7470EE14C6C93u * a, high = (unsigned __int128)0xCA5A826395121157u * c;
                a = (uint64_t)(high >> 64) ^ b ^ left, c = (uint64_t)(low >> 64) ^ d ^ right;
                b = (uint64_t)high, d = (uint64_t)low;
                left += 0x9E3779B97F4A7C15u, right += 0xBB67AE8584CAA73Bu;
            }
            words[0] = a, words[1] = b, words[2] = c, words[3] = d;
        }
        uniforms[i] = (double)(words[position % 4] >> 11) * 0x1p-53;
    }
}
