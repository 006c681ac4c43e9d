// The operations of a Llama-like network on bf16, each one pass over memory.
//
// Each function does what the one of the same name does in ops.py, which says what the arguments
// mean. Two things make them faster: weights are read in the order in which they are needed, once
// for all rows, and between the matrix products little is called and nothing is copied. HEAD is the
// size of an attention head and GROUP the number of query heads that share a key head; both are
// fixed when this file is compiled. Vectors are of the compiler's own kind, so the file serves any
// processor; where one multiplies pairs of bf16 itself, that is used.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <omp.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

typedef uint16_t bf16;
#ifdef __AVX512F__
constexpr int BYTES = 64, ROWS = 8;  // of a vector; tokens computed together, as registers allow
#else
constexpr int BYTES = 32, ROWS = 2;
#endif
typedef float floats __attribute__((vector_size(BYTES), aligned(4)));
typedef uint32_t pairs __attribute__((vector_size(BYTES), aligned(2)));  // two bf16 in each lane

constexpr int LANES = BYTES / 4;
constexpr int WIDTH = 32;              // outputs computed together: how weights are packed
constexpr int BLOCK = WIDTH / LANES;
constexpr int AHEAD = 2048;            // bytes of weights asked of memory before they are needed

static inline float wide(bf16 x) {
  uint32_t bits = (uint32_t)x << 16;
  float y;
  memcpy(&y, &bits, 4);
  return y;
}

static inline void put(float x, float* to) { *to = x; }

static inline bf16 narrow(float x) {  // round to nearest, ties to even
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return (bf16)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline void put(float x, bf16* to) { *to = narrow(x); }

// e^x as 2^n times a polynomial (Cephes, Moshier 1992): 2 ulp, and the compiler can vectorize it.
static inline float power_of_e(float x) {
  x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  float n = x * 1.44269504f + 12582912.0f;
  n -= 12582912.0f;
  float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t bits = ((int32_t)n + 127) << 23;
  float scale;
  memcpy(&scale, &bits, 4);
  return p * scale;
}

// sum + the products of both numbers of each pair
static inline floats add_products(floats sum, pairs a, pairs b) {
#ifdef __AVX512BF16__
  return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#else
  return sum + (floats)(a << 16) * (floats)(b << 16) + (floats)(a & 0xffff0000u) * (floats)(b & 0xffff0000u);
#endif
}

static inline pairs everywhere(const bf16* two) {
  uint32_t both;
  memcpy(&both, two, 4);
  return both - pairs{};
}

static inline pairs read(const bf16* w) { return *(const pairs*)w; }

static inline pairs read(const int8_t* w) {  // whole numbers up to 127 fit bf16 exactly
#ifdef __AVX512BF16__
  __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)w)));
  __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)w + 1)));
  return (pairs)_mm512_cvtne2ps_pbh(high, low);
#else
  bf16 wider[2 * LANES];
  for (int i = 0; i < 2 * LANES; i++) wider[i] = narrow(w[i]);
  return *(const pairs*)wider;
#endif
}

// What happens to sums before they are stored, by output: y = sum * scale + bias + add.
struct Finish {
  const float *scale, *bias;
  const bf16* add;  // laid out as y is
};

// WIDTH outputs of COUNT tokens. Packed weights are (in / 2, WIDTH, 2): each lane a pair of inputs.
template <int COUNT, typename WEIGHT, typename NUMBER>
static inline void tile(const bf16* x, const WEIGHT* w, Finish finish, NUMBER* y, long in, long x_step,
                        long y_step, long outputs) {
  floats sum[COUNT][BLOCK] = {};
  for (long i = 0; i < in / 2; i++, w += 2 * WIDTH) {
    pairs weight[BLOCK];
    for (int b = 0; b < BLOCK; b++) {
      weight[b] = read(w + b * 2 * LANES);
      __builtin_prefetch((const char*)(w + b * 2 * LANES) + AHEAD);
    }
    for (int t = 0; t < COUNT; t++) {
      pairs both = everywhere(x + t * x_step + 2 * i);
      for (int b = 0; b < BLOCK; b++) sum[t][b] = add_products(sum[t][b], weight[b], both);
    }
  }
  long n = outputs < WIDTH ? outputs : WIDTH;
  for (int t = 0; t < COUNT; t++) {
    float values[WIDTH];
    memcpy(values, sum[t], sizeof values);
    NUMBER* to = y + t * y_step;
    if (finish.scale)
      for (long i = 0; i < n; i++) values[i] *= finish.scale[i];
    if (finish.bias)
      for (long i = 0; i < n; i++) values[i] += finish.bias[i];
    if (finish.add)
      for (long i = 0; i < n; i++) values[i] += wide(finish.add[t * y_step + i]);
    if (n == WIDTH)
      for (int i = 0; i < WIDTH; i++) put(values[i], to + i);
    else
      for (long i = 0; i < n; i++) put(values[i], to + i);
  }
}

template <typename WEIGHT, typename NUMBER>
static inline void tiles(const bf16* x, const WEIGHT* w, Finish finish, NUMBER* y, long tokens, long in,
                         long x_step, long y_step, long outputs) {
  for (long t = 0; t < tokens; t += ROWS, x += ROWS * x_step, y += ROWS * y_step) {
    switch (tokens - t < ROWS ? tokens - t : ROWS) {
#define CASE(N) case N: tile<N>(x, w, finish, y, in, x_step, y_step, outputs); break;
      CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
    }
    if (finish.add) finish.add += ROWS * y_step;
  }
}

template <typename WEIGHT, typename NUMBER>
static void multiply(const bf16* x, const WEIGHT* w, const float* scale, const float* bias, NUMBER* y,
                     long tokens, long in, long out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (long from = 0; from < out; from += WIDTH)
    tiles(x, w + from * in, Finish{scale ? scale + from : nullptr, bias ? bias + from : nullptr, nullptr},
          y + from, tokens, in, in, out, out - from);
}

static inline float root_mean_square(const float* x, long size, float eps) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (long i = 0; i < size; i++) sum += x[i] * x[i];
  return 1.0f / std::sqrt(sum / size + eps);
}

extern "C" {

// Weights are int8 where there is a scale, y is float where it is to be exact.
void linear(const bf16* x, const void* w, const float* scale, const float* bias, void* y, bool exact,
            long tokens, long in, long out, int threads) {
  if (scale && exact)
    multiply(x, (const int8_t*)w, scale, bias, (float*)y, tokens, in, out, threads);
  else if (scale)
    multiply(x, (const int8_t*)w, scale, bias, (bf16*)y, tokens, in, out, threads);
  else if (exact)
    multiply(x, (const bf16*)w, scale, bias, (float*)y, tokens, in, out, threads);
  else
    multiply(x, (const bf16*)w, scale, bias, (bf16*)y, tokens, in, out, threads);
}

void add_norm(float* hidden, const bf16* delta, const float* weight, bf16* out, float eps,
              long tokens, long size, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens > 1)
  for (long t = 0; t < tokens; t++) {
    float* h = hidden + t * size;
    bf16* o = out + t * size;
    if (delta) {
      const bf16* d = delta + t * size;
#pragma omp simd
      for (long i = 0; i < size; i++) h[i] += wide(d[i]);
    }
    float scale = root_mean_square(h, size, eps);
#pragma omp simd
    for (long i = 0; i < size; i++) o[i] = narrow(h[i] * scale * weight[i]);
  }
}

void gate(const bf16* gate_up, bf16* out, long tokens, long size, int threads) {
#pragma omp parallel for num_threads(threads) if (tokens > 1)
  for (long t = 0; t < tokens; t++) {
    const bf16 *g = gate_up + t * 2 * size, *u = g + size;
    bf16* o = out + t * size;
#pragma omp simd
    for (long i = 0; i < size; i++) {
      float x = wide(g[i]);
      o[i] = narrow(x / (1.0f + power_of_e(-x)) * wide(u[i]));
    }
  }
}

void rotate_and_store(bf16* qkv, const float* cos, const float* sin, const float* q_norm,
                      const float* k_norm, bf16* keys, bf16* values, const int64_t* slots,
                      const int64_t* positions, float eps, long tokens, long q_heads, long k_heads,
                      long capacity, int threads) {
  long width = (q_heads + 2 * k_heads) * HEAD;
#pragma omp parallel for num_threads(threads) if (tokens > 1)
  for (long t = 0; t < tokens; t++) {
    const float *c = cos + t * HEAD, *s = sin + t * HEAD;
    bf16* heads = qkv + t * width;
    long row = slots[t] * k_heads, j = positions[t];
    for (long h = 0; h < q_heads + k_heads; h++, heads += HEAD) {
      const float* norm = h < q_heads ? q_norm : k_norm;
      float x[HEAD];
#pragma omp simd
      for (int i = 0; i < HEAD; i++) x[i] = wide(heads[i]);
      if (norm) {
        float scale = root_mean_square(x, HEAD, eps);
#pragma omp simd
        for (int i = 0; i < HEAD; i++) x[i] = wide(narrow(x[i] * scale * norm[i]));
      }
#pragma omp simd
      for (int i = 0; i < HEAD / 2; i++) {
        float a = x[i], b = x[i + HEAD / 2];
        heads[i] = narrow(a * c[i] - b * s[i]);
        heads[i + HEAD / 2] = narrow(b * c[i + HEAD / 2] + a * s[i + HEAD / 2]);
      }
      if (h < q_heads) continue;
      // Keys lie as packed weights do, with positions for outputs: (positions / WIDTH, HEAD / 2, WIDTH, 2).
      bf16* key = keys + (row + h - q_heads) * capacity * HEAD + (j / WIDTH * HEAD * WIDTH) + j % WIDTH * 2;
      for (int i = 0; i < HEAD; i++) key[i / 2 * WIDTH * 2 + i % 2] = heads[i];
    }
    for (long h = 0; h < k_heads; h++, heads += HEAD) {  // values: (positions / 2, HEAD, 2)
      bf16* value = values + (row + h) * capacity * HEAD + j / 2 * HEAD * 2 + j % 2;
      for (int i = 0; i < HEAD; i++) value[2 * i] = heads[i];
    }
  }
}

void attend(const bf16* qkv, const bf16* keys, const bf16* values, const int64_t* slots,
            const int64_t* positions, bf16* out, float* scratch, float scale, long tokens,
            long q_heads, long k_heads, long capacity, int threads) {
  static_assert(HEAD % LANES == 0, "a head is made of whole vectors");
  constexpr int PARTS = HEAD / LANES;
  long width = (q_heads + 2 * k_heads) * HEAD;
#pragma omp parallel for collapse(2) num_threads(threads) schedule(dynamic)
  for (long t = 0; t < tokens; t++)
    for (long h = 0; h < k_heads; h++) {
      long seen = positions[t] + 1, row = (slots[t] * k_heads + h) * capacity * HEAD;
      float* scores = scratch + (long)omp_get_thread_num() * 2 * GROUP * capacity;
      bf16* shares = (bf16*)(scores + GROUP * capacity);
      const bf16 *query = qkv + t * width + h * GROUP * HEAD, *key = keys + row, *value = values + row;
      for (long j = 0; j < seen; j += WIDTH) {
        floats sum[GROUP][BLOCK] = {};
        for (int i = 0; i < HEAD; i += 2, key += 2 * WIDTH)
          for (int g = 0; g < GROUP; g++)
            for (int b = 0; b < BLOCK; b++)
              sum[g][b] = add_products(sum[g][b], *(const pairs*)(key + b * 2 * LANES),
                                       everywhere(query + g * HEAD + i));
        for (int g = 0; g < GROUP; g++) memcpy(scores + g * capacity + j, sum[g], sizeof sum[g]);
      }
      float weight[GROUP];
      for (int g = 0; g < GROUP; g++) {
        float *s = scores + g * capacity, top = s[0], total = 0;
        bf16* share = shares + g * capacity;
#pragma omp simd reduction(max : top)
        for (long j = 0; j < seen; j++) top = s[j] > top ? s[j] : top;
#pragma omp simd reduction(+ : total)
        for (long j = 0; j < seen; j++) {
          float e = power_of_e((s[j] - top) * scale);
          total += e;
          share[j] = narrow(e);
        }
        weight[g] = 1.0f / total;
      }
      floats sum[GROUP][PARTS] = {};
      for (long j = 0; j < seen; j += 2, value += 2 * HEAD) {
        // Nobody has written the second value of the last pair, if their number is odd.
        uint32_t both = j + 1 < seen ? 0xffffffffu : 0x0000ffffu;
        for (int g = 0; g < GROUP; g++)
          for (int i = 0; i < PARTS; i++)
            sum[g][i] = add_products(sum[g][i], *(const pairs*)(value + i * 2 * LANES) & both,
                                     everywhere(shares + g * capacity + j) & both);
      }
      for (int g = 0; g < GROUP; g++) {
        float heads[HEAD];
        memcpy(heads, sum[g], sizeof heads);
        for (int i = 0; i < HEAD; i++) out[(t * q_heads + h * GROUP + g) * HEAD + i] = narrow(heads[i] * weight[g]);
      }
    }
}

void low_rank(const bf16* x, bf16* y, const bf16* down, const bf16* up, const int64_t* ends, bf16* inner,
              long tokens, long in, long out, long parts, long rank, int threads) {
  long ranks = parts * rank;
#pragma omp parallel num_threads(threads) firstprivate(up)
  {
#pragma omp for
    for (long from = 0; from < ranks; from += WIDTH)
      tiles(x, down + from * in, Finish{}, inner + from, tokens, in, in, ranks, ranks - from);
    for (long p = 0; p < parts; p++) {
      long begin = p ? ends[p - 1] : 0, size = ends[p] - begin;
#pragma omp for nowait
      for (long from = 0; from < size; from += WIDTH)
        tiles(inner + p * rank, up + from * rank, Finish{nullptr, nullptr, y + begin + from},
              y + begin + from, tokens, rank, ranks, out, size - from);
      up += (size + WIDTH - 1) / WIDTH * WIDTH * rank;
    }
  }
}
}
