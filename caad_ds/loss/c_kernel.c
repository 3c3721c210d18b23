/* The objective's arithmetic over rows of logits on a CPU: softmaxes, terms, diagnostics, gradient.

   Compiled by c_kernel.py for the machine it runs on. Plain loops, written so that a C compiler vectorises them without
   being allowed to assume that there are no NaNs. Names are those of triton_kernel.py; logarithms are to base 2. */

#include <float.h>
#include <math.h>
#include <stdint.h>

static const float LOG2_E = 1.44269504f, LN_2 = 0.693147181f;
enum { BLOCK = 4096 }; /* logits whose sum is kept in single precision */

/* 2^x for x <= 0, within 2 ulp; 0 below the normal numbers, NaN for NaN.
   x = n + f with |f| <= 1/2; 2^f is its Taylor polynomial, and 2^n is put together from its bits. */
static inline float power_of_2(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole number */
    float kept = x < -126.0f ? -126.0f : x;
    float shifted = kept + magic, f = kept - (shifted - magic);
    float p = 1.52527338e-5f;
    p = p * f + 1.54035304e-4f;
    p = p * f + 1.33335581e-3f;
    p = p * f + 9.61812911e-3f;
    p = p * f + 5.55041087e-2f;
    p = p * f + 2.40226507e-1f;
    p = p * f + 6.93147181e-1f;
    p = p * f + 1.0f;
    union { float number; uint32_t bits; } place = {shifted}, scale;
    scale.bits = (place.bits << 23) + 0x3f800000u;
    return x < -126.0f ? 0.0f : p * scale.number;
}

/* The largest value, and where it stands first. NaN is never the largest; it shows in the sums. */
static float largest(const float *z, int64_t vocab, int64_t *at) {
    float top = -FLT_MAX;
    #pragma omp simd reduction(max : top)
    for (int64_t i = 0; i < vocab; i++) top = z[i] > top ? z[i] : top;
    int64_t first = 0;
    while (first < vocab - 1 && !(z[first] == top)) first++;
    *at = first;
    return top;
}

/* Rows [0, count) of logits [count, vocab], student's `z_s` and target's `z_t` (null without a teacher).
   `weights` are the rows' shares of the loss, `kd_weights` of its distillation term.
   `z_s` receives dL/dz where `gradient` is set, zeros in rows that are not `valid`. `found` has seven columns of stride `stride`, one place per row. */
void caad_rows(int64_t count, int64_t vocab, int64_t stride, float *z_s, const float *z_t, const int64_t *labels,
               const uint8_t *valid, const float *weights, const float *kd_weights, float *found, float tau,
               float sharpness, float kd_weight, int32_t gradient) {
    const float scale = LOG2_E / tau, scale_t = sharpness * scale;
    for (int64_t row = 0; row < count; row++) {
        float *s = z_s + row * vocab;
        const float *t = z_t ? z_t + row * vocab : s;
        if (!valid[row]) { /* whatever the row holds */
            for (int64_t term = 0; term < 7; term++) found[term * stride + row] = 0.0f;
            for (int64_t i = 0; gradient && i < vocab; i++) s[i] = 0.0f;
            continue;
        }
        int64_t best_s, best_t;
        const float peak_s = largest(s, vocab, &best_s), peak_t = largest(t, vocab, &best_t);
        const float at_label = s[labels[row]] - peak_s;
        double total_s = 0, total_1 = 0, total_t = 0;
        for (int64_t start = 0; start < vocab; start += BLOCK) {
            const int64_t end = start + BLOCK < vocab ? start + BLOCK : vocab;
            float part_s = 0, part_1 = 0, part_t = 0;
            #pragma omp simd reduction(+ : part_s, part_1, part_t)
            for (int64_t i = start; i < end; i++) {
                part_s += power_of_2((s[i] - peak_s) * scale);
                part_1 += power_of_2((s[i] - peak_s) * LOG2_E);
                part_t += power_of_2((t[i] - peak_t) * scale_t);
            }
            total_s += part_s, total_1 += part_1, total_t += part_t;
        }
        const float log_s = (float)log2(total_s), log_1 = (float)log2(total_1), log_t = (float)log2(total_t);
        const float kd_share = (z_t ? kd_weight : 0.0f) * tau * kd_weights[row];
        const float ce_share = (1 - kd_weight) * weights[row];
        double kd = 0, entropy_s = 0, entropy_t = 0;
        for (int64_t start = 0; start < vocab; start += BLOCK) {
            const int64_t end = start + BLOCK < vocab ? start + BLOCK : vocab;
            float part_kd = 0, part_s = 0, part_t = 0;
            #pragma omp simd reduction(+ : part_kd, part_s, part_t)
            for (int64_t i = start; i < end; i++) {
                const float below = s[i] - peak_s;
                const float log_p = below * scale - log_s, log_q = (t[i] - peak_t) * scale_t - log_t;
                const float p = power_of_2(log_p), q = power_of_2(log_q);
                part_kd += q * (log_q - log_p);
                part_s -= p * log_p;
                part_t -= q * log_q;
                if (gradient) s[i] = (p - q) * kd_share + power_of_2(below * LOG2_E - log_1) * ce_share;
            }
            kd += part_kd, entropy_s += part_s, entropy_t += part_t;
        }
        if (gradient) s[labels[row]] -= ce_share;
        /* An infinite logit makes an entropy NaN; a term by itself may hide it. */
        const float nothing_s = 0.0f * (float)entropy_s, nothing_t = 0.0f * (float)entropy_t;
        found[row] = ((float)kd * LN_2 * tau * tau + nothing_s + nothing_t) * kd_weights[row];
        found[stride + row] = (log_1 * LN_2 - at_label + nothing_s) * weights[row];
        found[2 * stride + row] = 1.0f;
        found[3 * stride + row] = best_s == labels[row];
        found[4 * stride + row] = best_s == best_t;
        found[5 * stride + row] = (float)entropy_s * LN_2;
        found[6 * stride + row] = (float)entropy_t * LN_2;
    }
}
