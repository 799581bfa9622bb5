//! What the commands compute, on activations laid out `[height, width, channels]`.
//!
//! A convolution is: unfold the patches (one row for each output pixel), multiply by the weights
//! with candle's matmul, then add bias and residual and apply ReLU in one pass. With channels
//! innermost, patches are runs of memory, a 1×1 convolution needs no unfolding, and the result is
//! in place for the next layer. candle's own `conv2d` transposes between layouts in one thread and
//! is several times slower.
//!
//! All parallel work runs in the calling thread's rayon pool: a queue that lowers its workers'
//! scheduling class reaches all of it. candle's matmul does (gemm splits its work by `rayon`), but
//! candle's element-wise operations on large tensors (`relu`, `+` …) start threads of candle's own,
//! hence the operations written here.

pub(super) mod maps;
pub(super) mod tokens;

use candle_core::cpu::erf::erf_f32;
use candle_core::{CpuStorage, Device, InplaceOp2, InplaceOp3, Layout, Result, Tensor, bail};
use rayon::prelude::*;

use super::plan::{Activation, ConvShape, Function};
use super::weights::Folded;

/// A convolution with its weights, bias and what is fused behind it.
pub(super) struct Convolution {
    shape: ConvShape,
    /// `[lines × columns of the kernel × inputs, outputs]`
    weights: Tensor,
    bias: Vec<f32>,
}

impl Convolution {
    pub(super) fn new(shape: ConvShape, folded: Folded) -> Result<Convolution> {
        let size = (shape.outputs, shape.taps());
        let weights = Tensor::from_vec(folded.kernel, size, &Device::Cpu)?.t()?;
        Ok(Convolution {
            shape,
            weights,
            bias: folded.bias,
        })
    }

    /// Elements of scratch memory that `run` needs for a result of this shape.
    pub(super) fn patches(&self, to: Activation) -> usize {
        if self.is_matmul() {
            0
        } else {
            to.height * to.width * self.shape.taps()
        }
    }

    /// Computes `to` from `from` and `residual`, with `patches` as scratch memory.
    pub(super) fn run(
        &self,
        from: &Tensor,
        residual: Option<&Tensor>,
        patches: &Tensor,
        to: &Tensor,
    ) -> Result<()> {
        let (height, width, _) = to.dims3()?;
        let (pixels, taps) = (height * width, self.shape.taps());
        let rows = if self.is_matmul() {
            from.reshape((pixels, taps))?
        } else {
            let rows = patches
                .narrow(0, 0, pixels * taps)?
                .reshape((pixels, taps))?;
            rows.inplace_op2(
                from,
                &Unfold {
                    shape: self.shape,
                    width,
                },
            )?;
            rows
        };
        let products = rows.matmul(&self.weights)?;
        let finish = Finish {
            bias: &self.bias,
            activation: self.shape.activation,
        };
        match residual {
            None => to.inplace_op2(&products, &finish),
            Some(residual) => to.inplace_op3(&products, residual, &finish),
        }
    }

    fn is_matmul(&self) -> bool {
        self.shape.kernel == [1, 1] && self.shape.stride == 1
    }
}

/// Copies an image `[channels, height, width]` to `[height, width, channels]`.
pub(super) fn load(image: &Tensor, to: &Tensor) -> Result<()> {
    to.inplace_op2(image, &Load)
}

/// The maximum over 3×3 pixels at stride 2, with a padding of 1.
pub(super) fn max_pool(from: &Tensor, to: &Tensor) -> Result<()> {
    to.inplace_op2(from, &MaxPool)
}

/// The average over all pixels.
pub(super) fn average_pool(from: &Tensor, to: &Tensor) -> Result<()> {
    to.inplace_op2(from, &AveragePool)
}

/// Elements that a task of a pass over memory should have at least.
const GRAIN: usize = 16 * 1024;

struct Unfold {
    shape: ConvShape,
    /// Of the result.
    width: usize,
}

impl InplaceOp2 for Unfold {
    fn name(&self) -> &'static str {
        "unfold"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        from: &CpuStorage,
        from_l: &Layout,
    ) -> Result<()> {
        let (height, width, channels) = from_l.shape().dims3()?;
        let (to, from) = (write(to, to_l)?, read(from, from_l)?);
        let ConvShape {
            kernel: [lines, columns],
            padding: [above, left],
            stride,
            dilation,
            ..
        } = self.shape;
        to.par_chunks_mut(self.width * lines * columns * channels)
            .enumerate()
            .for_each(|(out_y, line)| {
                for (out_x, patch) in line
                    .chunks_exact_mut(lines * columns * channels)
                    .enumerate()
                {
                    let x = out_x * stride;
                    // Columns of the kernel that lie inside the image.
                    let first = left.saturating_sub(x).div_ceil(dilation).min(columns);
                    let end = (width + left).saturating_sub(x).div_ceil(dilation);
                    let end = end.clamp(first, columns);
                    for (tap_y, taps) in patch.chunks_exact_mut(columns * channels).enumerate() {
                        let y = out_y * stride + tap_y * dilation;
                        if y < above || y >= height + above {
                            taps.fill(0.0);
                            continue;
                        }
                        let row = &from[(y - above) * width * channels..][..width * channels];
                        taps[..first * channels].fill(0.0);
                        taps[end * channels..].fill(0.0);
                        let inside = &mut taps[first * channels..end * channels];
                        let start = |tap: usize| (x + tap * dilation - left) * channels;
                        if dilation == 1 && end > first {
                            inside.copy_from_slice(&row[start(first)..][..inside.len()]);
                            continue;
                        }
                        for (tap, pixel) in (first..).zip(inside.chunks_exact_mut(channels)) {
                            pixel.copy_from_slice(&row[start(tap)..][..channels]);
                        }
                    }
                }
            });
        Ok(())
    }
}

/// Bias, residual and the last function.
struct Finish<'a> {
    bias: &'a [f32],
    activation: Function,
}

impl Finish<'_> {
    /// Pixels of a task.
    fn grain(&self) -> usize {
        GRAIN.div_ceil(self.bias.len()) * self.bias.len()
    }
}

impl InplaceOp2 for Finish<'_> {
    fn name(&self) -> &'static str {
        "bias-function"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        products: &CpuStorage,
        products_l: &Layout,
    ) -> Result<()> {
        let (to, products) = (write(to, to_l)?, read(products, products_l)?);
        let channels = self.bias.len();
        let tasks = to
            .par_chunks_mut(self.grain())
            .zip(products.par_chunks(self.grain()));
        tasks.for_each(|(to, products)| {
            for (to, products) in to
                .chunks_exact_mut(channels)
                .zip(products.chunks_exact(channels))
            {
                for ((to, product), bias) in to.iter_mut().zip(products).zip(self.bias) {
                    *to = product + bias;
                }
                apply(self.activation, to);
            }
        });
        Ok(())
    }
}

impl InplaceOp3 for Finish<'_> {
    fn name(&self) -> &'static str {
        "bias-add-function"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        products: &CpuStorage,
        products_l: &Layout,
        residual: &CpuStorage,
        residual_l: &Layout,
    ) -> Result<()> {
        let to = write(to, to_l)?;
        let (products, residual) = (read(products, products_l)?, read(residual, residual_l)?);
        let channels = self.bias.len();
        let sources = products
            .par_chunks(self.grain())
            .zip(residual.par_chunks(self.grain()));
        to.par_chunks_mut(self.grain())
            .zip(sources)
            .for_each(|(to, (products, residual))| {
                let sources = products
                    .chunks_exact(channels)
                    .zip(residual.chunks_exact(channels));
                for (to, (products, residual)) in to.chunks_exact_mut(channels).zip(sources) {
                    for (((to, product), bias), residual) in
                        to.iter_mut().zip(products).zip(self.bias).zip(residual)
                    {
                        *to = product + bias + residual;
                    }
                    apply(self.activation, to);
                }
            });
        Ok(())
    }
}

struct Load;

impl InplaceOp2 for Load {
    fn name(&self) -> &'static str {
        "load"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        image: &CpuStorage,
        image_l: &Layout,
    ) -> Result<()> {
        let (to, image) = (write(to, to_l)?, read(image, image_l)?);
        let (channels, height, width) = image_l.shape().dims3()?;
        for (channel, plane) in image.chunks_exact(height * width).enumerate() {
            for (pixel, value) in to.chunks_exact_mut(channels).zip(plane) {
                pixel[channel] = *value;
            }
        }
        Ok(())
    }
}

struct MaxPool;

impl InplaceOp2 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
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
        to.par_chunks_mut(out_width * channels)
            .enumerate()
            .for_each(|(out_y, line)| {
                for (out_x, to) in line.chunks_exact_mut(channels).enumerate() {
                    to.fill(f32::NEG_INFINITY);
                    for y in (2 * out_y).saturating_sub(1)..(2 * out_y + 2).min(height) {
                        for x in (2 * out_x).saturating_sub(1)..(2 * out_x + 2).min(width) {
                            let pixel = &from[(y * width + x) * channels..][..channels];
                            to.iter_mut()
                                .zip(pixel)
                                .for_each(|(to, value)| *to = at_least(*value, *to));
                        }
                    }
                }
            });
        Ok(())
    }
}

struct AveragePool;

impl InplaceOp2 for AveragePool {
    fn name(&self) -> &'static str {
        "average-pool"
    }

    fn cpu_fwd(
        &self,
        to: &mut CpuStorage,
        to_l: &Layout,
        from: &CpuStorage,
        from_l: &Layout,
    ) -> Result<()> {
        let (to, from) = (write(to, to_l)?, read(from, from_l)?);
        let pixels = (from.len() / to.len()) as f32;
        to.fill(0.0);
        for pixel in from.chunks_exact(to.len()) {
            to.iter_mut()
                .zip(pixel)
                .for_each(|(to, value)| *to += value);
        }
        to.iter_mut().for_each(|to| *to /= pixels);
        Ok(())
    }
}

/// The last function of a convolution.
fn apply(function: Function, to: &mut [f32]) {
    match function {
        Function::Identity => {}
        Function::Relu => to
            .iter_mut()
            .for_each(|value| *value = at_least(*value, 0.0)),
        Function::Relu6 => to
            .iter_mut()
            .for_each(|value| *value = value.clamp(0.0, 6.0)),
        Function::Gelu => to.iter_mut().for_each(|value| {
            *value *= 0.5 * (1.0 + erf_f32(*value * std::f32::consts::FRAC_1_SQRT_2));
        }),
    }
}

/// Unlike `f32::max`, lets a `value` that is not a number through, as torch does.
fn at_least(value: f32, floor: f32) -> f32 {
    if value < floor { floor } else { value }
}

fn read<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => bail!("an activation must be contiguous and of type f32"),
    }
}

fn write<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => bail!("an activation must be contiguous and of type f32"),
    }
}
