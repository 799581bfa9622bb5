//! The plan of a model: its layers in order, with shapes and activation slots, before there are
//! weights.

use super::CLASSES;

/// Activation buffers that a plan may use.
const SLOTS: usize = 4;

/// An activation of one image: where it is kept, and its shape. Channels are innermost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Activation {
    pub(crate) slot: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
}

impl Activation {
    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// A convolution, with what is fused behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    /// A batch normalisation follows; otherwise a plain bias.
    pub(crate) norm: bool,
    /// A ReLU comes last.
    pub(crate) relu: bool,
}

impl ConvShape {
    /// Keeps the size of an image at stride 1.
    pub(crate) fn padding(&self) -> usize {
        self.kernel / 2
    }

    /// Weights of the convolution alone.
    pub(crate) fn weights(&self) -> usize {
        self.outputs * self.kernel * self.kernel * self.inputs
    }
}

/// What a layer computes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Op {
    /// Copies an image in.
    Load,
    Conv(ConvShape),
    /// 3×3, stride 2, padding 1.
    MaxPool,
    /// Over the whole image.
    AveragePool,
    /// Copies the scores out.
    Store,
}

/// One layer: one command.
#[derive(Debug)]
pub(crate) struct LayerPlan {
    pub(crate) op: Op,
    pub(crate) from: Activation,
    pub(crate) to: Activation,
    /// Added to a convolution's result before the ReLU.
    pub(crate) residual: Option<Activation>,
}

/// Layers in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) layers: Vec<LayerPlan>,
}

impl Plan {
    /// A plan that starts by loading an RGB image.
    pub(super) fn new(image_size: usize) -> (Plan, Activation) {
        let image = Activation {
            slot: 0,
            height: image_size,
            width: image_size,
            channels: 3,
        };
        let load = LayerPlan {
            op: Op::Load,
            from: image,
            to: image,
            residual: None,
        };
        (Plan { layers: vec![load] }, image)
    }

    /// The slots besides that of `used`.
    pub(super) fn others(used: Activation) -> [usize; SLOTS - 1] {
        std::array::from_fn(|index| (used.slot + 1 + index) % SLOTS)
    }

    /// Adds a convolution with batch normalisation, then the residual, then ReLU if wanted; its
    /// result goes to `slot`.
    pub(super) fn conv(
        &mut self,
        from: Activation,
        (outputs, kernel, stride): (usize, usize, usize),
        residual: Option<Activation>,
        relu: bool,
        slot: usize,
    ) -> Activation {
        let shape = ConvShape {
            inputs: from.channels,
            outputs,
            kernel,
            stride,
            norm: true,
            relu,
        };
        let (height, width) = (from.height.div_ceil(stride), from.width.div_ceil(stride));
        self.push(
            Op::Conv(shape),
            from,
            Activation {
                slot,
                height,
                width,
                channels: outputs,
            },
            residual,
        )
    }

    /// Adds the maximum over 3×3 at stride 2.
    pub(super) fn max_pool(&mut self, from: Activation) -> Activation {
        let (height, width) = (from.height.div_ceil(2), from.width.div_ceil(2));
        let to = Activation {
            slot: Plan::others(from)[0],
            height,
            width,
            channels: from.channels,
        };
        self.push(Op::MaxPool, from, to, None)
    }

    /// Adds the average over the image, the classifier and the copy of its scores.
    pub(super) fn classify(&mut self, from: Activation) {
        let [pooled, scores, _] = Plan::others(from);
        let to = Activation {
            slot: pooled,
            height: 1,
            width: 1,
            channels: from.channels,
        };
        let pooled = self.push(Op::AveragePool, from, to, None);
        // A fully connected layer is a 1×1 convolution of a 1×1 image.
        let shape = ConvShape {
            inputs: from.channels,
            outputs: CLASSES,
            kernel: 1,
            stride: 1,
            norm: false,
            relu: false,
        };
        let to = Activation {
            slot: scores,
            height: 1,
            width: 1,
            channels: CLASSES,
        };
        let scores = self.push(Op::Conv(shape), pooled, to, None);
        self.push(Op::Store, scores, scores, None);
    }

    /// Elements that each slot must hold.
    pub(super) fn slot_sizes(&self) -> Vec<usize> {
        let mut sizes = vec![0; SLOTS];
        for layer in &self.layers {
            sizes[layer.to.slot] = layer.to.len().max(sizes[layer.to.slot]);
        }
        sizes
    }

    /// Trainable parameters: a normalisation has two for each channel, a bias one.
    pub(super) fn parameters(&self) -> usize {
        let parameters = |layer: &LayerPlan| match layer.op {
            Op::Conv(shape) => shape.weights() + shape.outputs * if shape.norm { 2 } else { 1 },
            _ => 0,
        };
        self.layers.iter().map(parameters).sum()
    }

    fn push(
        &mut self,
        op: Op,
        from: Activation,
        to: Activation,
        residual: Option<Activation>,
    ) -> Activation {
        self.layers.push(LayerPlan {
            op,
            from,
            to,
            residual,
        });
        to
    }
}
