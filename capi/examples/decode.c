/* Decoding from C: queries and keys are rotated, keys and values appended to a cache of 16-bit floats, in rows, in a
 * ring and in pages, and attention reads them there. Checked against plain loops over rows; and calls that must be
 * refused. */
#include "check.h"

enum { STEPS = 30, PROMPT = 5, HEADS = 4, KV_HEADS = 2, DIM = 12, V_DIM = 7, PARTIAL = 8 };
/* A ring of as many slots as a query sees keys; pages, or rows, for all tokens. */
enum { SLOTS = 11, PAGE = 4, PAGES = 8, CACHE = PAGE * PAGES };
enum { Q = HEADS * DIM, K = KV_HEADS * DIM, V = KV_HEADS * V_DIM, OUT = HEADS * V_DIM };

#ifdef QKV_NO_HALF
typedef float cell;
enum { CELL = QKV_F32 };
static float widened(cell x) { return x; }
#else
typedef uint16_t cell;
enum { CELL = QKV_F16 };
static float widened(cell x)
{
    int exponent = x >> 10 & 31, mantissa = x & 1023;
    float size = exponent > 0 ? ldexpf((float)(1024 + mantissa), exponent - 25) : ldexpf((float)mantissa, -24);
    return x >> 15 ? -size : size;
}
#endif

static float scratch[QKV_ATTENTION_SCRATCH_LEN(PROMPT, CACHE, DIM, V_DIM)];
static float table[STEPS * DIM], q[PROMPT * Q], k[PROMPT * K], v[PROMPT * V], out[PROMPT * OUT];
static cell k_cache[CACHE * K], v_cache[CACHE * V], k_before[CACHE * K], v_before[CACHE * V];
/* All tokens, in order. */
static float turned[PROMPT * Q], k_rows[STEPS * K], v_rows[STEPS * V], want[PROMPT * OUT];
static const uint32_t page_table[PAGES] = { 5, 0, 7, 2, 1, 6, 3, 4 };

/* The cosines of each position's pairs, then the sines. */
static void fill_table(size_t dim)
{
    for (size_t at = 0; at < STEPS; at++)
        for (size_t i = 0; i < dim / 2; i++) {
            float angle = (float)at * powf(10000, -2 * (float)i / (float)dim);
            table[at * dim + i] = cosf(angle);
            table[at * dim + dim / 2 + i] = sinf(angle);
        }
}

static void plain_rotation(const float *x, size_t heads, size_t at, size_t dim, bool interleaved, float *y)
{
    const float *cosines = table + at * dim, *sines = cosines + dim / 2;
    memcpy(y, x, heads * DIM * sizeof *y);
    for (size_t h = 0; h < heads; h++)
        for (size_t i = 0; i < dim / 2; i++) {
            size_t a = h * DIM + (interleaved ? 2 * i : i), b = h * DIM + (interleaved ? 2 * i + 1 : i + dim / 2);
            y[a] = x[a] * cosines[i] - x[b] * sines[i];
            y[b] = x[b] * cosines[i] + x[a] * sines[i];
        }
}

/* A query sees its own key and the `SLOTS - 1` before it. */
static void plain_attention(size_t at, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t h = 0; h < HEADS; h++) {
            size_t g = h / (HEADS / KV_HEADS), own = at + i, first = own < SLOTS ? 0 : own + 1 - SLOTS;
            float p[SLOTS], x[V_DIM] = { 0 }, max = -INFINITY, sum = 0;
            for (size_t t = first; t <= own; t++) {
                float s = 0;
                for (size_t d = 0; d < DIM; d++)
                    s += turned[i * Q + h * DIM + d] * k_rows[t * K + g * DIM + d];
                p[t - first] = s / sqrtf(DIM);
                max = fmaxf(max, p[t - first]);
            }
            for (size_t t = first; t <= own; t++) {
                float weight = expf(p[t - first] - max);
                sum += weight;
                for (size_t d = 0; d < V_DIM; d++)
                    x[d] += weight * v_rows[t * V + g * V_DIM + d];
            }
            for (size_t d = 0; d < V_DIM; d++)
                want[i * OUT + h * V_DIM + d] = x[d] / sum;
        }
}

static size_t place(uint32_t layout, size_t token)
{
    return layout == QKV_KV_RING ? token % SLOTS
         : layout == QKV_KV_PAGES ? page_table[token / PAGE] * PAGE + token % PAGE : token;
}

/* That the token is where it must be, as near as a cell can be to it; then it becomes part of what was there before. */
static void is_there(const cell *cache, cell *before, size_t slot, size_t len, const float *token, float *row)
{
    for (size_t i = 0; i < len; i++) {
        row[i] = widened(cache[slot * len + i]);
        expect(fabsf(row[i] - token[i]) <= fmaxf(fabsf(token[i]) / 2048, 0x1p-25f), "a token in the cache");
    }
    memcpy(before + slot * len, cache + slot * len, len * sizeof *cache);
}

static void decoding_is_right(uint32_t layout, size_t dim, bool interleaved)
{
    qkv_rotary rotary = { .table = table, .table_len = STEPS * dim, .interleaved = interleaved };
    rotary.dim = dim == DIM ? 0 : dim;
    size_t tokens = layout == QKV_KV_RING ? SLOTS : layout == QKV_KV_PAGES ? PAGE : CACHE;
    size_t batch = layout == QKV_KV_PAGES ? PAGES : 1;
    qkv_append_options to = { .kv_layout = layout };
    if (layout == QKV_KV_PAGES)
        to.page_table = page_table, to.page_table_len = PAGES;
    qkv_error error;
    memset(k_cache, 0x3c, sizeof k_cache), memset(v_cache, 0x3c, sizeof v_cache);
    memset(k_before, 0x3c, sizeof k_cache), memset(v_before, 0x3c, sizeof v_cache);
    fill_table(dim);
    for (size_t at = 0, n; at < STEPS; at += n) {
        n = at == 0 ? PROMPT : 1;
        numbers(q, n * Q, 3 * (uint32_t)at), numbers(k, n * K, 3 * (uint32_t)at + 1);
        numbers(v, n * V, 3 * (uint32_t)at + 2);
        for (size_t i = 0; i < n; i++)
            plain_rotation(q + i * Q, HEADS, at + i, dim, interleaved, turned + i * Q);

        qkv_heads_out hq = { .data = q, .len = n * Q, .tokens = n, .n_heads = HEADS, .head_dim = DIM };
        succeeds(qkv_rotate(&hq, &at, 1, &rotary, &error), &error, "rotation");
        expect(memcmp(q, turned, n * Q * sizeof *q) == 0, "rotation is that of plain loops");

        const qkv_heads new_k = { .data = k, .len = n * K, .tokens = n, .n_heads = KV_HEADS, .head_dim = DIM };
        const qkv_heads new_v = { .data = v, .len = n * V, .tokens = n, .n_heads = KV_HEADS, .head_dim = V_DIM };
        const qkv_heads_out ck = { .data = k_cache, .len = CACHE * K, .dtype = CELL, .batch = batch,
                                   .tokens = tokens, .n_heads = KV_HEADS, .head_dim = DIM };
        const qkv_heads_out cv = { .data = v_cache, .len = CACHE * V, .dtype = CELL, .batch = batch,
                                   .tokens = tokens, .n_heads = KV_HEADS, .head_dim = V_DIM };
        to.rotary = &rotary;
        succeeds(qkv_append(&new_k, &at, 1, &ck, &to, &error), &error, "keys are appended");
        to.rotary = NULL;
        succeeds(qkv_append(&new_v, &at, 1, &cv, layout == QKV_KV_ROWS ? NULL : &to, &error), &error,
                 "values are appended");
        for (size_t i = 0; i < n; i++) {
            float key[K];
            plain_rotation(k + i * K, KV_HEADS, at + i, dim, interleaved, key);
            is_there(k_cache, k_before, place(layout, at + i), K, key, k_rows + (at + i) * K);
            is_there(v_cache, v_before, place(layout, at + i), V, v + i * V, v_rows + (at + i) * V);
        }
        expect(memcmp(k_cache, k_before, sizeof k_cache) == 0, "other keys stay");
        expect(memcmp(v_cache, v_before, sizeof v_cache) == 0, "other values stay");

        size_t there = at + n;
        qkv_heads xq = { .data = q, .len = n * Q, .tokens = n, .n_heads = HEADS, .head_dim = DIM };
        qkv_heads xk = { .data = k_cache, .len = CACHE * K, .dtype = CELL, .batch = batch,
                         .tokens = tokens, .n_heads = KV_HEADS, .head_dim = DIM };
        qkv_heads xv = { .data = v_cache, .len = CACHE * V, .dtype = CELL, .batch = batch,
                         .tokens = tokens, .n_heads = KV_HEADS, .head_dim = V_DIM };
        qkv_heads_out xo = { .data = out, .len = n * OUT, .tokens = n, .n_heads = HEADS, .head_dim = V_DIM };
        qkv_attention_options options = { .causal = 1, .kv_layout = layout };
        if (layout == QKV_KV_RING) {
            options.kv_len = there > SLOTS ? SLOTS : there;
            options.kv_first = there > SLOTS ? there % SLOTS : 0;
        } else {
            options.has_window = 1, options.window_before = SLOTS - 1;
            if (layout == QKV_KV_PAGES)
                options.kv_len = there, options.page_table = page_table, options.page_table_len = PAGES;
            else
                xk.tokens = xv.tokens = there;
        }
        int code = qkv_attention(&xq, &xk, &xv, &xo, &options, scratch, sizeof scratch / sizeof *scratch, &error);
        succeeds(code, &error, "attention over the cache");
        plain_attention(at, n);
        expect(close_to(out, want, n * OUT, 4e-6f), "attention is that of plain loops over rows");
    }
}

/* Two sequences of one and two new tokens, at positions that are not their numbers. */
static void packed_tokens_go_to_their_places(void)
{
    static const size_t appended[] = { 1, 0 }, positions[] = { 7, 3 }, offsets[] = { 0, 1, 3 };
    static const size_t at[] = { 7, 3, 4 }, to[] = { 1, 2, 3 };
    const qkv_rotary rotary = { .table = table, .table_len = STEPS * DIM, .offsets = offsets, .offsets_len = 3 };
    const qkv_append_options o = { .rotary = &rotary, .positions = positions, .positions_len = 2,
                                   .offsets = offsets, .offsets_len = 3 };
    qkv_heads_out x = { .data = k, .len = 3 * K, .tokens = 3, .n_heads = KV_HEADS, .head_dim = DIM };
    qkv_heads in = { .data = k, .len = 3 * K, .tokens = 3, .n_heads = KV_HEADS, .head_dim = DIM };
    qkv_heads_out cache = { .data = k_rows, .len = 4 * K, .batch = 2, .tokens = 2, .n_heads = KV_HEADS, .head_dim = DIM };
    qkv_error error;
    fill_table(DIM);
    numbers(k, 3 * K, 1);
    for (size_t i = 0; i < 3; i++)
        plain_rotation(k + i * K, KV_HEADS, at[i], DIM, false, turned + i * K);
    succeeds(qkv_append(&in, appended, 2, &cache, &o, &error), &error, "packed tokens are appended");
    for (size_t i = 0; i < 3; i++)
        expect(memcmp(k_rows + to[i] * K, turned + i * K, K * sizeof *k) == 0, "a packed token in the cache");
    succeeds(qkv_rotate(&x, positions, 2, &rotary, &error), &error, "packed tokens are rotated");
    expect(memcmp(k, turned, 3 * K * sizeof *k) == 0, "packed tokens are rotated");
}

static void wrong_calls_are_refused(void)
{
    static const size_t there[3] = { 4, SIZE_MAX, STEPS };
    static const uint32_t wrong[2] = { 0, 9 };
    qkv_error e;
    numbers(k, 2 * K, 5);
    for (int c = 0; c < 20; c++) {
        qkv_heads x = { .data = k, .len = 2 * K, .tokens = 2, .n_heads = KV_HEADS, .head_dim = DIM };
        qkv_heads_out cache = { .data = k_rows, .len = 8 * K, .tokens = 8, .n_heads = KV_HEADS, .head_dim = DIM };
        qkv_rotary r = { .table = table, .table_len = STEPS * DIM };
        qkv_append_options o = { .rotary = &r };
        const qkv_heads *px = &x;
        const size_t *n = there;
        size_t sequences = 1;
        int as = QKV_ERROR_DIM;
        const char *what = "";
        switch (c) {
        case 0: px = NULL, as = QKV_ERROR_NULL, what = "tokens"; break;
        case 1: n = NULL, as = QKV_ERROR_NULL, what = "appended"; break;
        case 2: r.table = NULL, as = QKV_ERROR_NULL, what = "table"; break;
        case 3: cache.dtype = QKV_BITS, as = QKV_ERROR_DTYPE, what = "cache"; break;
        case 4: x.data = k_rows, as = QKV_ERROR_OVERLAP, what = "cache"; break;
        case 5: n = there + 1, as = QKV_ERROR_OVERFLOW, what = "appended"; break;
        case 6: r.interleaved = 2, as = QKV_ERROR_OPTION, what = "interleaved"; break;
        case 7: o.kv_layout = 3, as = QKV_ERROR_OPTION, what = "kv_layout"; break;
        case 8: o.page_table = wrong, o.page_table_len = 2, as = QKV_ERROR_OPTION, what = "kv_layout"; break;
        case 9: sequences = 0, what = "batch (length of appended)"; break;
        case 10: sequences = 3, what = "batch (length of appended)"; break;
        case 11: o.positions = there, o.positions_len = 2, what = "batch (length of positions)"; break;
        case 12: n = there + 2, what = "positions, for the rotary table,"; break;
        case 13: r.table_len = STEPS * DIM - 1, what = "rotary table (whole positions)"; break;
        case 14: r.dim = 3, what = "rotary dim (even)"; break;
        case 15: r.dim = DIM + 2, r.table_len = 14, what = "rotary dim"; break;
        case 16: cache.tokens = 5, what = "tokens in the cache"; break;
        case 17: cache.n_heads = 1, what = "n_heads of the cache"; break;
        case 18:
            o.kv_layout = QKV_KV_PAGES, o.page_table = wrong, o.page_table_len = 2;
            cache.batch = 2, cache.tokens = 4, what = "page number in the table";
            break;
        case 19: o.kv_layout = QKV_KV_PAGES, what = "tokens in the cache"; break;
        }
        for (size_t i = 0; i < 8 * K; i++)
            k_rows[i] = 77.0f;
        refused(qkv_append(px, n, sequences, &cache, &o, &e), as, &e, what, k_rows, 8 * K);
        if (c == 12)
            expect(e.expected == STEPS && e.got == STEPS + 2, "the numbers of an error");
    }
    const qkv_rotary r = { .table = table, .table_len = STEPS * DIM };
    const qkv_rotary within = { .table = k_rows, .table_len = DIM };
    const qkv_heads_out x = { .data = k_rows, .len = 2 * K, .tokens = 2, .n_heads = KV_HEADS, .head_dim = DIM };
    refused(qkv_rotate(&x, there, 1, NULL, &e), QKV_ERROR_NULL, &e, "rotary", k_rows, 2 * K);
    refused(qkv_rotate(&x, there, 2, &r, &e), QKV_ERROR_DIM, &e, "batch (length of first)", k_rows, 2 * K);
    refused(qkv_rotate(&x, there + 1, 1, &r, &e), QKV_ERROR_OVERFLOW, &e, "first", k_rows, 2 * K);
    refused(qkv_rotate(&x, there, 1, &within, &e), QKV_ERROR_OVERLAP, &e, "table", k_rows, 2 * K);
    expect(qkv_append(NULL, NULL, 0, NULL, NULL, NULL) == QKV_ERROR_NULL, "all NULL");
}

int main(void)
{
    for (uint32_t layout = QKV_KV_ROWS; layout <= QKV_KV_PAGES; layout++) {
        decoding_is_right(layout, DIM, false);
        decoding_is_right(layout, DIM, true);
        decoding_is_right(layout, PARTIAL, false);
        decoding_is_right(layout, PARTIAL, true);
    }
    packed_tokens_go_to_their_places();
    wrong_calls_are_refused();
    return result("decode.c");
}
