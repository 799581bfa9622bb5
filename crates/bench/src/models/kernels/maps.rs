//! What convolutional networks compute besides plain convolutions.

use candle_core::{CpuStorage, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::super::plan::ConvShape;
use super::super::weights::Folded;
use super::{apply, read, write};

/// A convolution in each channel by itself.
pub(in crate::models) struct Depthwise {
    shape: ConvShape,
    /// `[kernel, kernel, channels]`
    weights: Vec<f32>,
    bias: Vec<f32>,
}

impl Depthwise {
    pub(in crate::models) fn new(shape: ConvShape, folded: Folded) -> Depthwise {
        let (taps, channels) = (shape.taps(), shape.outputs);
        // From a kernel for each channel to the channels of each tap.
        let weight = |index: usize| folded.kernel[index % channels * taps + index / channels];
        Depthwise {
            shape,
            weights: (0..taps * channels).map(weight).collect(),
            bias: folded.bias,
        }
    }

    pub(in crate::models) fn run(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        to.inplace_op2(from, self)
    }
}

impl InplaceOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        from: &CpuStorage,
        from_l: &Layout,
    ) -> Result<()> {
        let (height, width, channels) = from_l.shape().dims3()?;
        let (_, out_width, _) = to_l.shape().dims3()?;
        let (to, from) = (write(to, to_l)?, read(from, from_l)?);
        let ConvShape {
            kernel: [lines, columns],
            padding: [above, left],
            stride,
            ..
        } = self.shape;
        to.par_chunks_mut(out_width * channels)
            .enumerate()
            .for_each(|(out_y, line)| {
                for (out_x, to) in line.chunks_exact_mut(channels).enumerate() {
                    to.copy_from_slice(&self.bias);
                    for tap in 0..lines * columns {
                        let y = (out_y * stride + tap / columns).wrapping_sub(above);
                        let x = (out_x * stride + tap % columns).wrapping_sub(left);
                        if y >= height || x >= width {
                            continue;
                        }
                        let pixel = &from[(y * width + x) * channels..][..channels];
                        let weights = &self.weights[tap * channels..][..channels];
                        for ((to, value), weight) in to.iter_mut().zip(pixel).zip(weights) {
                            *to += value * weight;
                        }
                    }
                    apply(self.shape.activation, to);
                }
            });
        Ok(())
    }
}

/// Copies to the channels from `channel` on; a single pixel goes to all.
pub(in crate::models) fn place(from: &Tensor, channel: usize, to: &Tensor) -> Result<()> {
    to.inplace_op2(from, &Place { channel })
}

struct Place {
    channel: usize,
}

impl InplaceOp2 for Place {
    fn name(&self) -> &'static str {
        "place"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        from: &CpuStorage,
        from_l: &Layout,
    ) -> Result<()> {
        let (_, _, channels) = to_l.shape().dims3()?;
        let (_, _, copied) = from_l.shape().dims3()?;
        let (to, from) = (write(to, to_l)?, read(from, from_l)?);
        let pixels = from.chunks_exact(copied).cycle();
        for (to, pixel) in to.chunks_exact_mut(channels).zip(pixels) {
            to[self.channel..][..copied].copy_from_slice(pixel);
        }
        Ok(())
    }
}

/// Bilinear, from pixel centre to pixel centre.
pub(in crate::models) fn upsample(from: &Tensor, to: &Tensor) -> Result<()> {
    to.inplace_op2(from, &Upsample)
}

struct Upsample;

impl InplaceOp2 for Upsample {
    fn name(&self) -> &'static str {
        "upsample"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        from: &CpuStorage,
        from_l: &Layout,
    ) -> Result<()> {
        let (height, width, channels) = from_l.shape().dims3()?;
        let (out_height, out_width, _) = to_l.shape().dims3()?;
        let (to, from) = (write(to, to_l)?, read(from, from_l)?);
        let pixel = |y: usize, x: usize| &from[(y * width + x) * channels..][..channels];
        to.par_chunks_mut(out_width * channels)
            .enumerate()
            .for_each(|(out_y, line)| {
                let (above, below, down) = between(out_y, height, out_height);
                for (out_x, to) in line.chunks_exact_mut(channels).enumerate() {
                    let (left, right, across) = between(out_x, width, out_width);
                    let corners = [(above, left), (above, right), (below, left), (below, right)];
                    let [a, b, c, d] = corners.map(|(y, x)| pixel(y, x));
                    for (channel, to) in to.iter_mut().enumerate() {
                        let upper = a[channel] + (b[channel] - a[channel]) * across;
                        let lower = c[channel] + (d[channel] - c[channel]) * across;
                        *to = upper + (lower - upper) * down;
                    }
                }
            });
        Ok(())
    }
}

/// The two of `len` pixels between which pixel `index` of `out_len` lies, and how far from the first.
fn between(index: usize, len: usize, out_len: usize) -> (usize, usize, f32) {
    let place = (index as f32 + 0.5) * (len as f32 / out_len as f32) - 0.5;
    let place = place.max(0.0);
    let first = (place as usize).min(len - 1);
    (first, (first + 1).min(len - 1), place - first as f32)
}
