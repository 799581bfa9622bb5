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

/// A convolution, with what is fused behind it. Pairs are for lines and columns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConvShape {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: usize,
    /// From one tap of the kernel to the next.
    pub(crate) dilation: usize,
    pub(crate) padding: [usize; 2],
    /// Each output is made from the input of its number alone.
    pub(crate) depthwise: bool,
    pub(crate) offset: Offset,
    pub(crate) activation: Function,
}

/// What is added to the products of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offset {
    /// Batch normalisation.
    Norm,
    /// One value an output.
    Bias,
    /// The same, but of three equal parts (query, key, value) the key has none.
    QueryValueBias,
}

/// What is applied last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Identity,
    Relu,
    /// ReLU, at most 6.
    Relu6,
    /// By the error function.
    Gelu,
}

impl ConvShape {
    /// With batch normalisation; keeps the size of an image at stride 1.
    pub(super) fn square(
        (inputs, outputs): (usize, usize),
        (kernel, stride): (usize, usize),
        activation: Function,
    ) -> ConvShape {
        ConvShape {
            inputs,
            outputs,
            kernel: [kernel; 2],
            stride,
            dilation: 1,
            padding: [kernel / 2; 2],
            depthwise: false,
            offset: Offset::Norm,
            activation,
        }
    }

    /// A fully connected layer: a 1×1 convolution.
    pub(super) fn linear(inputs: usize, outputs: usize, activation: Function) -> ConvShape {
        ConvShape {
            offset: Offset::Bias,
            ..ConvShape::square((inputs, outputs), (1, 1), activation)
        }
    }

    /// The same 3×3 convolution with taps further apart; keeps the size of an image.
    pub(super) fn dilated(self, dilation: usize) -> ConvShape {
        ConvShape {
            dilation,
            padding: self.kernel.map(|kernel| kernel / 2 * dilation),
            ..self
        }
    }

    /// Lines and columns of the result.
    pub(crate) fn size(&self, from: Activation) -> [usize; 2] {
        let sizes = [from.height, from.width];
        std::array::from_fn(|axis| {
            let reach = self.dilation * (self.kernel[axis] - 1) + 1;
            (sizes[axis] + 2 * self.padding[axis] - reach) / self.stride + 1
        })
    }

    /// Products in a sum.
    pub(crate) fn taps(&self) -> usize {
        let inputs = if self.depthwise { 1 } else { self.inputs };
        self.kernel[0] * self.kernel[1] * inputs
    }

    /// Weights of the convolution alone.
    pub(crate) fn weights(&self) -> usize {
        self.outputs * self.taps()
    }

    fn parameters(&self) -> usize {
        let offsets = match self.offset {
            Offset::Norm => 2 * self.outputs,
            Offset::Bias => self.outputs,
            Offset::QueryValueBias => self.outputs / 3 * 2,
        };
        self.weights() + offsets
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
    /// Copies into the channels from this one on; a single pixel is copied to all.
    Place(usize),
    /// Bilinear, to another size.
    Upsample,
    /// Adds learned positions, behind a learned class token.
    ClassAndPositions,
    /// Adds sines and cosines of the position.
    Sinusoids,
    /// Over the channels of each pixel, with this added to the variance; of as many pixels as the
    /// result has.
    LayerNorm(f32),
    /// Attention of one head; reads query, key and value side by side, writes the head's channels.
    Attention {
        head: usize,
        heads: usize,
    },
    /// Copies the result out.
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
    /// A plan that starts by loading an input of `[channels, height, width]`.
    pub(super) fn new([channels, height, width]: [usize; 3]) -> (Plan, Activation) {
        let image = Activation {
            slot: 0,
            height,
            width,
            channels,
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

    /// Adds a convolution, then the residual, then its last function; the result goes to `slot`.
    pub(super) fn conv(
        &mut self,
        from: Activation,
        shape: ConvShape,
        residual: Option<Activation>,
        slot: usize,
    ) -> Activation {
        let [height, width] = shape.size(from);
        let to = Activation {
            slot,
            height,
            width,
            channels: shape.outputs,
        };
        self.push(Op::Conv(shape), from, to, residual)
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

    /// Adds the average over the image.
    pub(super) fn average_pool(&mut self, from: Activation, slot: usize) -> Activation {
        let to = Activation {
            slot,
            height: 1,
            width: 1,
            channels: from.channels,
        };
        self.push(Op::AveragePool, from, to, None)
    }

    /// Adds the average over the image, the classifier and the copy of its scores.
    pub(super) fn classify(&mut self, from: Activation) {
        let [pooled, scores, _] = Plan::others(from);
        let pooled = self.average_pool(from, pooled);
        let shape = ConvShape::linear(from.channels, CLASSES, Function::Identity);
        let scores = self.conv(pooled, shape, None, scores);
        self.store(scores);
    }

    /// Adds an operation without weights of a convolution's kind.
    pub(super) fn then(&mut self, op: Op, from: Activation, to: Activation) -> Activation {
        self.push(op, from, to, None)
    }

    /// Adds the copy of the result.
    pub(super) fn store(&mut self, from: Activation) {
        self.push(Op::Store, from, from, None);
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
            Op::Conv(shape) => shape.parameters(),
            Op::LayerNorm(_) => 2 * layer.to.channels,
            Op::ClassAndPositions => layer.to.len() + layer.to.channels,
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
