// What the layers of a ResNet compute, on activations [height, width, channels] as on the CPU.
//
// A work item of `convolve` makes TILE pixels of LANES outputs: it reads each weight once for TILE
// pixels and each value once for LANES outputs. Taps outside the image read `zeros`. The host gives
// TILE and LANES; outputs are a multiple of LANES.

#define VECTOR_(n) float##n
#define VECTOR(n) VECTOR_(n)
#define LOAD_(n) vload##n
#define LOAD(n) LOAD_(n)
#define STORE_(n) vstore##n
#define STORE(n) STORE_(n)
typedef VECTOR(LANES) vector;

// [channels, height, width] from `first` on becomes [height, width, channels].
__kernel void load(__global const float *image, __global float *to, int first, int pixels,
                   int channels) {
    int pixel = get_global_id(0);
    if (pixel >= pixels) return;
    for (int channel = 0; channel < channels; channel++)
        to[pixel * channels + channel] = image[first + channel * pixels + pixel];
}

// Weights are [side, side, inputs, outputs]. `residual` is read if `adds`; `relu` cuts at zero.
__kernel void convolve(__global const float *from, __global const float *weights,
                       __global const float *bias, __global const float *residual,
                       __global const float *zeros, __global float *to, int height, int width,
                       int inputs, int out_height, int out_width, int outputs, int side, int stride,
                       int adds, int relu) {
    int output = get_global_id(0) * LANES;
    int first = get_global_id(1) * TILE;
    int pixels = out_height * out_width;
    if (output >= outputs || first >= pixels) return;

    int top[TILE], left[TILE];
    vector sum[TILE];
    for (int i = 0; i < TILE; i++) {
        // Those past the end compute the last pixel again.
        int pixel = min(first + i, pixels - 1);
        top[i] = pixel / out_width * stride - side / 2;
        left[i] = pixel % out_width * stride - side / 2;
        sum[i] = 0.0f;
    }
    __global const float *row = weights + output;
    for (int tap = 0; tap < side * side; tap++) {
        __global const float *values[TILE];
        for (int i = 0; i < TILE; i++) {
            int y = top[i] + tap / side, x = left[i] + tap % side;
            bool inside = y >= 0 && y < height && x >= 0 && x < width;
            values[i] = inside ? from + (y * width + x) * inputs : zeros;
        }
        for (int input = 0; input < inputs; input++) {
            vector weight = LOAD(LANES)(0, row);
            row += outputs;
            for (int i = 0; i < TILE; i++) sum[i] += values[i][input] * weight;
        }
    }
    vector shift = LOAD(LANES)(0, bias + output);
    for (int i = 0; i < TILE && first + i < pixels; i++) {
        int place = (first + i) * outputs + output;
        vector result = sum[i] + shift;
        if (adds) result += LOAD(LANES)(0, residual + place);
        // Lets through what is not a number.
        if (relu) result = result < 0.0f ? (vector)(0.0f) : result;
        STORE(LANES)(result, 0, to + place);
    }
}

// The maximum over 3 by 3 pixels at stride 2, with a padding of 1.
__kernel void max_pool(__global const float *from, __global float *to, int height, int width,
                       int channels, int out_height, int out_width) {
    int channel = get_global_id(0), pixel = get_global_id(1);
    if (channel >= channels || pixel >= out_height * out_width) return;
    int top = pixel / out_width * 2 - 1, left = pixel % out_width * 2 - 1;
    float most = -INFINITY;
    for (int y = max(top, 0); y < min(top + 3, height); y++)
        for (int x = max(left, 0); x < min(left + 3, width); x++) {
            float value = from[(y * width + x) * channels + channel];
            most = value < most ? most : value;
        }
    to[pixel * channels + channel] = most;
}

// The average over all pixels.
__kernel void average_pool(__global const float *from, __global float *to, int pixels,
                           int channels) {
    int channel = get_global_id(0);
    if (channel >= channels) return;
    float sum = 0.0f;
    for (int pixel = 0; pixel < pixels; pixel++) sum += from[pixel * channels + channel];
    to[channel] = sum / pixels;
}
