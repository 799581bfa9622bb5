//! Inference models on the CPU, as lists of short commands: the work that the scenarios schedule.
//!
//! A [`Model`] is to the CPU what a captured graph is to a GPU: weights and activation buffers are
//! fixed when it is built, and an inference is a list of commands, one for each layer or fused
//! block. Preemption can therefore happen between any two layers. A batch is computed input by
//! input, so that its commands stay as short as those of one.
//!
//! Weights are random but fixed by a seed: results and times do not depend on downloads.

#![forbid(unsafe_code)]

mod kernels;
mod mobilenet;
mod plan;
mod resnet;
mod transformer;
mod weights;

use std::sync::{Arc, Mutex};

use candle_core::{DType, Device, Result, Tensor, bail};

use kernels::Convolution;
use kernels::maps::Depthwise;
use kernels::tokens::{LayerNorm, Positions};
use plan::{LayerPlan, Plan};
use weights::{Random, Weights};
use xsched_cpu::Command;

pub(crate) use plan::{Activation, ConvShape, Function, Op};
pub(crate) use weights::Folded;

/// Classes that a model tells apart: ImageNet's.
pub const CLASSES: usize = 1000;

/// Classes that a segmentation tells apart: those of Pascal VOC, and the background.
pub const SEGMENTS: usize = 21;

/// Side of the square images that the scenarios use, in pixels.
pub const IMAGE_SIZE: usize = 224;

/// Frames of a spectrogram of 30 seconds.
pub const FRAMES: usize = 3000;

/// Which model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Architecture {
    /// ResNet-18: 11.7 million parameters, 1.8 billion multiply-adds an image of 224×224.
    #[value(name = "resnet18")]
    ResNet18,
    /// ResNet-50: 25.6 million parameters, 4.1 billion multiply-adds an image of 224×224.
    #[value(name = "resnet50")]
    ResNet50,
    /// MobileNetV2: 3.5 million parameters, 0.3 billion multiply-adds an image of 224×224.
    #[value(name = "mobilenet_v2")]
    MobileNetV2,
    /// ViT-B/16: 86.6 million parameters, 17.6 billion multiply-adds an image of 224×224.
    #[value(name = "vit_b_16")]
    VitB16,
    /// DeepLabV3 on ResNet-50 for segmentation: 39.6 million parameters, 33 billion multiply-adds an
    /// image of 224×224 (179 billion at torchvision's 520×520).
    #[value(name = "deeplabv3_resnet50")]
    DeepLabV3ResNet50,
    /// The encoder of Whisper base: 19.8 million parameters, 44 billion multiply-adds a clip of 30 s.
    #[value(name = "whisper_base_encoder")]
    WhisperBaseEncoder,
}

impl Architecture {
    /// The name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::ResNet18 => "resnet18",
            Architecture::ResNet50 => "resnet50",
            Architecture::MobileNetV2 => "mobilenet_v2",
            Architecture::VitB16 => "vit_b_16",
            Architecture::DeepLabV3ResNet50 => "deeplabv3_resnet50",
            Architecture::WhisperBaseEncoder => "whisper_base_encoder",
        }
    }

    /// Size of the inputs unless one is given: the side of images in pixels, or frames of sound.
    pub fn usual_size(self) -> usize {
        match self {
            Architecture::WhisperBaseEncoder => FRAMES,
            _ => IMAGE_SIZE,
        }
    }

    /// Refuses a size that inputs cannot have, in one line.
    pub fn check_size(self, size: usize) -> std::result::Result<(), String> {
        let patch = transformer::PATCH;
        match self {
            _ if size == 0 => Err("must be at least 1".to_owned()),
            Architecture::VitB16 if !size.is_multiple_of(patch) => {
                Err(format!("must be a multiple of {patch} for {}", self.name()))
            }
            _ => Ok(()),
        }
    }

    /// Trainable parameters, before batch normalisation is folded into the convolutions.
    pub fn parameters(self) -> usize {
        self.plan(self.usual_size()).parameters()
    }

    /// `[channels, height, width]` of an input.
    fn input(self, size: usize) -> [usize; 3] {
        match self {
            Architecture::WhisperBaseEncoder => [transformer::BANDS, 1, size],
            _ => [3, size, size],
        }
    }

    fn plan(self, size: usize) -> Plan {
        match self {
            Architecture::ResNet18 => resnet::resnet18(size),
            Architecture::ResNet50 => resnet::resnet50(size),
            Architecture::MobileNetV2 => mobilenet::mobilenet_v2(size),
            Architecture::VitB16 => transformer::vit_b_16(size),
            Architecture::DeepLabV3ResNet50 => resnet::deeplabv3_resnet50(size),
            Architecture::WhisperBaseEncoder => transformer::whisper_base_encoder(size),
        }
    }
}

/// What a model looks at, as torch lays it out: images `[batch, 3, size, size]`, or spectrograms
/// `[batch, 80, 1, frames]`.
#[derive(Debug, Clone)]
pub struct Inputs(Tensor);

impl Inputs {
    /// Random inputs of a size, always the same for a seed. `None` when there is not enough memory.
    pub fn random(
        architecture: Architecture,
        batch: usize,
        size: usize,
        seed: u64,
    ) -> Option<Inputs> {
        let [channels, height, width] = architecture.input(size);
        let len = batch
            .checked_mul(channels)?
            .checked_mul(height)?
            .checked_mul(width)?;
        let mut values = Vec::new();
        values.try_reserve_exact(len).ok()?;
        let mut random = Random::new(seed);
        values.extend((0..len).map(|_| random.uniform(-2.0, 2.0)));
        let values = Tensor::from_vec(values, (batch, channels, height, width), &Device::Cpu);
        Some(Inputs(values.expect("as many values as the shape has")))
    }

    /// All values, input by input.
    pub(crate) fn values(&self) -> Result<Vec<f32>> {
        self.0.flatten_all()?.to_vec1()
    }

    /// How many inputs.
    pub fn batch(&self) -> usize {
        self.0.dims()[0]
    }
}

/// Receives the result of an inference, for each input in order: [`CLASSES`] scores; of a segmentation
/// [`SEGMENTS`] scores for each pixel; of Whisper's encoder 512 values for each second frame.
#[derive(Debug, Clone, Default)]
pub struct Scores(Arc<Mutex<Vec<f32>>>);

impl Scores {
    /// Takes what has been computed so far, and leaves nothing.
    pub fn take(&self) -> Vec<f32> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<f32>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A model with its weights and activation buffers.
///
/// The buffers belong to the model, so its commands must run one at a time and in order. Clones
/// share them.
#[derive(Clone)]
pub struct Model(Arc<Inner>);

struct Inner {
    layers: Vec<Layer>,
    /// One flat buffer for each slot of the plan.
    slots: Vec<Tensor>,
    /// The unfolded patches of a convolution's input.
    patches: Tensor,
}

struct Layer {
    kernel: Kernel,
    from: Activation,
    to: Activation,
    residual: Option<Activation>,
}

enum Kernel {
    Load,
    Convolution(Convolution),
    Depthwise(Depthwise),
    MaxPool,
    AveragePool,
    /// To the channels from this one on.
    Place(usize),
    Upsample,
    Positions(Positions),
    LayerNorm(LayerNorm),
    Attention {
        head: usize,
        heads: usize,
    },
    Store,
}

impl Model {
    /// Builds a model for inputs of `size` (see [`Architecture::usual_size`]), with weights drawn from
    /// `seed`.
    pub fn new(architecture: Architecture, size: usize, seed: u64) -> Result<Model> {
        if let Err(reason) = architecture.check_size(size) {
            bail!("size {size} {reason}");
        }
        let plan = architecture.plan(size);
        let mut random = Random::new(seed);
        let mut patches = 0;
        let mut layers = Vec::with_capacity(plan.layers.len());
        for layer in &plan.layers {
            let kernel = match &layer.op {
                Op::Load => Kernel::Load,
                Op::Conv(shape) if shape.depthwise => {
                    let weights = Weights::random(shape, &mut random);
                    Kernel::Depthwise(Depthwise::new(*shape, weights.fold()))
                }
                Op::Conv(shape) => {
                    let weights = Weights::random(shape, &mut random);
                    let convolution = Convolution::new(*shape, weights.fold())?;
                    patches = patches.max(convolution.patches(layer.to));
                    Kernel::Convolution(convolution)
                }
                Op::MaxPool => Kernel::MaxPool,
                Op::AveragePool => Kernel::AveragePool,
                Op::Place(channel) => Kernel::Place(*channel),
                Op::Upsample => Kernel::Upsample,
                Op::ClassAndPositions => {
                    let class = random.uniforms(layer.to.channels, -0.1, 0.1);
                    let positions = random.uniforms(layer.to.len(), -0.1, 0.1);
                    Kernel::Positions(Positions::learned(class, positions))
                }
                Op::Sinusoids => {
                    let (tokens, channels) = (layer.to.width, layer.to.channels);
                    Kernel::Positions(Positions::sinusoids(tokens, channels))
                }
                Op::LayerNorm(epsilon) => Kernel::LayerNorm(LayerNorm {
                    gamma: random.uniforms(layer.to.channels, 0.8, 1.2),
                    beta: random.uniforms(layer.to.channels, -0.1, 0.1),
                    epsilon: *epsilon,
                }),
                Op::Attention { head, heads } => Kernel::Attention {
                    head: *head,
                    heads: *heads,
                },
                Op::Store => Kernel::Store,
            };
            layers.push(Layer {
                kernel,
                from: layer.from,
                to: layer.to,
                residual: layer.residual,
            });
        }
        let zeros = |len: usize| Tensor::zeros(len, DType::F32, &Device::Cpu);
        Ok(Model(Arc::new(Inner {
            layers,
            slots: plan
                .slot_sizes()
                .into_iter()
                .map(zeros)
                .collect::<Result<_>>()?,
            patches: zeros(patches)?,
        })))
    }

    /// Commands in an inference of `batch` inputs.
    pub fn command_count(&self, batch: usize) -> usize {
        batch * self.0.layers.len()
    }

    /// An inference as a list of commands, to be run in order. The last one completes `scores`.
    pub fn commands(
        &self,
        inputs: &Inputs,
        scores: &Scores,
    ) -> impl Iterator<Item = Command> + use<> {
        let (inner, inputs, scores) = (self.0.clone(), inputs.clone(), scores.clone());
        (0..self.command_count(inputs.batch())).map(move |index| {
            let (inner, inputs, scores) = (inner.clone(), inputs.clone(), scores.clone());
            let (input, layer) = (index / inner.layers.len(), index % inner.layers.len());
            Box::new(move || {
                inner
                    .run(layer, input, &inputs, &scores)
                    .map_err(|error| error.to_string())
            }) as Command
        })
    }

    /// The same inference straight through, in the calling thread's rayon pool.
    pub fn forward(&self, inputs: &Inputs) -> Result<Vec<f32>> {
        let scores = Scores::default();
        for input in 0..inputs.batch() {
            for layer in 0..self.0.layers.len() {
                self.0.run(layer, input, inputs, &scores)?;
            }
        }
        Ok(scores.take())
    }
}

/// A model as numbers, for whatever device computes it.
pub(crate) struct Network {
    /// In order; each convolution with the weights that are drawn from the seed.
    pub(crate) layers: Vec<(LayerPlan, Option<Folded>)>,
    /// Elements that each activation buffer must hold.
    pub(crate) slot_sizes: Vec<usize>,
}

impl Network {
    /// For square images of `image_size` pixels, with weights drawn from `seed`.
    pub(crate) fn new(architecture: Architecture, image_size: usize, seed: u64) -> Network {
        let plan = architecture.plan(image_size);
        let mut random = Random::new(seed);
        let slot_sizes = plan.slot_sizes();
        let with_weights = |layer: LayerPlan| {
            let weights = match layer.op {
                Op::Conv(shape) => Some(Weights::random(&shape, &mut random).fold()),
                _ => None,
            };
            (layer, weights)
        };
        Network {
            layers: plan.layers.into_iter().map(with_weights).collect(),
            slot_sizes,
        }
    }
}

impl Inner {
    fn run(&self, layer: usize, input: usize, inputs: &Inputs, scores: &Scores) -> Result<()> {
        let layer = &self.layers[layer];
        let (from, to) = (|| self.view(layer.from), || self.view(layer.to));
        match &layer.kernel {
            Kernel::Load => kernels::load(&inputs.0.get(input)?, &to()?),
            Kernel::Convolution(convolution) => {
                let residual = layer
                    .residual
                    .map(|residual| self.view(residual))
                    .transpose()?;
                convolution.run(&from()?, residual.as_ref(), &self.patches, &to()?)
            }
            Kernel::Depthwise(depthwise) => depthwise.run(&from()?, &to()?),
            Kernel::MaxPool => kernels::max_pool(&from()?, &to()?),
            Kernel::AveragePool => kernels::average_pool(&from()?, &to()?),
            Kernel::Place(channel) => kernels::maps::place(&from()?, *channel, &to()?),
            Kernel::Upsample => kernels::maps::upsample(&from()?, &to()?),
            Kernel::Positions(positions) => positions.run(&from()?, &to()?),
            Kernel::LayerNorm(norm) => norm.run(&from()?, &to()?),
            Kernel::Attention { head, heads } => {
                kernels::tokens::attention(&from()?, *head, *heads, &to()?)
            }
            Kernel::Store => {
                let row = from()?.flatten_all()?.to_vec1::<f32>()?;
                scores.lock().extend(row);
                Ok(())
            }
        }
    }

    /// An activation as `[height, width, channels]`.
    fn view(&self, activation: Activation) -> Result<Tensor> {
        let Activation {
            slot,
            height,
            width,
            channels,
        } = activation;
        self.slots[slot]
            .narrow(0, 0, activation.len())?
            .reshape((height, width, channels))
    }
}

#[cfg(test)]
mod tests;
