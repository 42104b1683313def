// The sums of filters over the last of them, as student.divided: downwards, limited to [-1, 1), 0 where that is not positive.
#ifndef NNET_DIVIDE_H_
#define NNET_DIVIDE_H_

#include "nnet_common.h"

namespace nnet {

struct divide_config {
    static const unsigned n_in = 33;
    static const unsigned n_out = 32;
    static const unsigned bits = 8;
    static const unsigned scale = 0;
    static const unsigned most_gain = 0;
    static unsigned gain(unsigned k) { return 0; }
};

template <class data_T, class res_T, typename CONFIG_T> res_T quotient(data_T sum, data_T normaliser, unsigned gain) {
    #pragma HLS INLINE
    ap_int<data_T::width> sum_bits, normaliser_bits;
    sum_bits.range() = sum.range();
    normaliser_bits.range() = normaliser.range();
    typedef ap_int<data_T::width + CONFIG_T::bits + CONFIG_T::scale + CONFIG_T::most_gain + 2> wide_t;
    wide_t u = sum_bits, s = normaliser_bits;
    // Towards zero as C++ divides, then downwards.
    u = u << (gain + CONFIG_T::bits);
    s = s << CONFIG_T::scale;
    const wide_t limit = wide_t(1) << CONFIG_T::bits;
    wide_t q = s > 0 ? wide_t(u / s) : wide_t(0);
    if (s > 0 && u < 0 && q * s != u) q = q - 1;
    if (q >= limit) q = limit - 1;
    if (q < -limit) q = -limit;
    ap_int<res_T::width> out = q;
    res_T result;
    result.range() = out.range();
    return result;
}

template <class data_T, class res_T, typename CONFIG_T>
void divide(data_T data[CONFIG_T::n_in], res_T res[CONFIG_T::n_out]) {
    #pragma HLS PIPELINE
    for (unsigned k = 0; k < CONFIG_T::n_out; k++) {
        #pragma HLS UNROLL
        res[k] = quotient<data_T, res_T, CONFIG_T>(data[k], data[CONFIG_T::n_out], CONFIG_T::gain(k));
    }
}

template <class data_T, class res_T, typename CONFIG_T>
void divide(hls::stream<data_T> &data_stream, hls::stream<res_T> &res_stream) {
    data_T data = data_stream.read();
    res_T res;
    for (unsigned k = 0; k < CONFIG_T::n_out; k++) {
        #pragma HLS UNROLL
        res[k] = quotient<typename data_T::value_type, typename res_T::value_type, CONFIG_T>(data[k], data[CONFIG_T::n_out], CONFIG_T::gain(k));
    }
    res_stream.write(res);
}

}  // namespace nnet

#endif
