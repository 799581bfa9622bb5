//! The models computed a second time: by candle's own layers, unfolded, in torch's layout, layer by
//! layer as the papers have it.

use candle_core::{D, IndexOp};
use candle_nn::{Module, ModuleT};

use super::super::plan::{ConvShape, Function, Offset};
use super::super::weights::{EPSILON, Shift};
use super::*;

/// Draws the weights in the order of the plan.
struct Reference {
    random: Random,
}

impl Reference {
    /// Convolution, bias or normalisation, and the last function, on `[batch, channels, height,
    /// width]`.
    fn conv(&mut self, x: &Tensor, shape: ConvShape) -> Tensor {
        let Weights { kernel, shift } = Weights::random(&shape, &mut self.random);
        let inputs = if shape.depthwise { 1 } else { shape.inputs };
        let [lines, columns] = shape.kernel;
        let weights = Tensor::from_vec(
            kernel,
            (shape.outputs, lines, columns, inputs),
            &Device::Cpu,
        );
        let weights = weights.unwrap().permute((0, 3, 1, 2)).unwrap();
        let groups = if shape.depthwise { shape.inputs } else { 1 };
        let [vertical, horizontal] = shape.padding;
        let x = x.pad_with_zeros(2, vertical, vertical).unwrap();
        let x = x.pad_with_zeros(3, horizontal, horizontal).unwrap();
        let weights = weights.contiguous().unwrap();
        let y = if lines == 1 && columns > 1 {
            let (x, weights) = (x.squeeze(2).unwrap(), weights.squeeze(2).unwrap());
            let y = x.conv1d(&weights, 0, shape.stride, shape.dilation, groups);
            y.unwrap().unsqueeze(2).unwrap()
        } else {
            x.conv2d(&weights, 0, shape.stride, shape.dilation, groups)
                .unwrap()
        };
        let y = match shift {
            Shift::Norm {
                gamma,
                beta,
                mean,
                variance,
            } => {
                let [gamma, beta, mean, variance] = [gamma, beta, mean, variance]
                    .map(|values| Tensor::new(values, &Device::Cpu).unwrap());
                let norm = candle_nn::BatchNorm::new(
                    shape.outputs,
                    mean,
                    variance,
                    gamma,
                    beta,
                    f64::from(EPSILON),
                );
                norm.unwrap().forward_t(&y, false).unwrap()
            }
            Shift::Bias(bias) => {
                let bias = Tensor::from_vec(bias, (1, shape.outputs, 1, 1), &Device::Cpu);
                y.broadcast_add(&bias.unwrap()).unwrap()
            }
        };
        match shape.activation {
            Function::Identity => y,
            Function::Relu => y.relu().unwrap(),
            Function::Relu6 => y.clamp(0f32, 6f32).unwrap(),
            Function::Gelu => y.gelu_erf().unwrap(),
        }
    }

    /// A square convolution with normalisation, then ReLU.
    fn square(&mut self, x: &Tensor, outputs: usize, kernel: usize, stride: usize) -> Tensor {
        let inputs = x.dims()[1];
        let shape = ConvShape::square((inputs, outputs), (kernel, stride), Function::Relu);
        self.conv(x, shape)
    }

    fn block(
        &mut self,
        x: &Tensor,
        width: usize,
        stride: usize,
        dilation: usize,
        bottleneck: bool,
    ) -> Tensor {
        let inputs = x.dims()[1];
        let channels = if bottleneck { 4 * width } else { width };
        let linear = |inputs, kernel, stride| {
            ConvShape::square((inputs, channels), (kernel, stride), Function::Identity)
        };
        let shortcut = if stride == 1 && inputs == channels {
            x.clone()
        } else {
            self.conv(x, linear(inputs, 1, stride))
        };
        let middle = |inputs| {
            let shape = ConvShape::square((inputs, width), (3, stride), Function::Relu);
            ConvShape {
                dilation,
                padding: [dilation; 2],
                ..shape
            }
        };
        let y = if bottleneck {
            let y = self.square(x, width, 1, 1);
            let y = self.conv(&y, middle(width));
            self.conv(&y, linear(width, 1, 1))
        } else {
            let y = self.conv(x, middle(inputs));
            self.conv(&y, linear(width, 3, 1))
        };
        (y + shortcut).unwrap().relu().unwrap()
    }

    /// Stem and stages; blocks are given as (width, stride, dilation).
    fn backbone(
        &mut self,
        images: &Tensor,
        blocks: &[(usize, usize, usize)],
        bottleneck: bool,
    ) -> Tensor {
        let x = self.square(images, 64, 7, 2);
        // After a ReLU nothing is below zero, so padding with zeros changes no maximum.
        let x = x.pad_with_zeros(2, 1, 1).unwrap();
        let x = x.pad_with_zeros(3, 1, 1).unwrap();
        let mut x = x.max_pool2d_with_stride(3, 2).unwrap();
        for (width, stride, dilation) in blocks {
            x = self.block(&x, *width, *stride, *dilation, bottleneck);
        }
        x
    }

    fn classify(&mut self, x: &Tensor) -> Vec<f32> {
        let x = x.mean_keepdim((2, 3)).unwrap();
        let shape = ConvShape::linear(x.dims()[1], CLASSES, Function::Identity);
        values(&self.conv(&x, shape))
    }

    fn resnet(&mut self, images: &Tensor, blocks: [usize; 4], bottleneck: bool) -> Vec<f32> {
        let blocks: Vec<_> = blocks
            .into_iter()
            .enumerate()
            .flat_map(|(stage, count)| {
                let stride = move |index| if index == 0 && stage > 0 { 2 } else { 1 };
                (0..count).map(move |index| (64 << stage, stride(index), 1))
            })
            .collect();
        let x = self.backbone(images, &blocks, bottleneck);
        self.classify(&x)
    }

    fn mobilenet(&mut self, images: &Tensor) -> Vec<f32> {
        let conv = |inputs, outputs, kernel, stride, activation| {
            ConvShape::square((inputs, outputs), (kernel, stride), activation)
        };
        let mut x = self.conv(images, conv(3, 32, 3, 2, Function::Relu6));
        // Hidden channels, channels and stride of each of the 17 blocks.
        let blocks = [
            (32, 16, 1),
            (96, 24, 2),
            (144, 24, 1),
            (144, 32, 2),
            (192, 32, 1),
            (192, 32, 1),
            (192, 64, 2),
            (384, 64, 1),
            (384, 64, 1),
            (384, 64, 1),
            (384, 96, 1),
            (576, 96, 1),
            (576, 96, 1),
            (576, 160, 2),
            (960, 160, 1),
            (960, 160, 1),
            (960, 320, 1),
        ];
        for (index, (hidden, channels, stride)) in blocks.into_iter().enumerate() {
            let inputs = x.dims()[1];
            let mut y = x.clone();
            if index > 0 {
                y = self.conv(&y, conv(inputs, hidden, 1, 1, Function::Relu6));
            }
            let depthwise = ConvShape {
                depthwise: true,
                ..conv(hidden, hidden, 3, stride, Function::Relu6)
            };
            y = self.conv(&y, depthwise);
            y = self.conv(&y, conv(hidden, channels, 1, 1, Function::Identity));
            x = if y.dims() == x.dims() {
                (y + x).unwrap()
            } else {
                y
            };
        }
        let x = self.conv(&x, conv(320, 1280, 1, 1, Function::Relu6));
        self.classify(&x)
    }

    fn deeplab(&mut self, images: &Tensor) -> Vec<f32> {
        let mut blocks = vec![(64, 1, 1); 3];
        blocks.extend([(128, 2, 1), (128, 1, 1), (128, 1, 1), (128, 1, 1)]);
        blocks.push((256, 1, 1));
        blocks.extend([(256, 1, 2); 5]);
        blocks.push((512, 1, 2));
        blocks.extend([(512, 1, 4); 2]);
        let x = self.backbone(images, &blocks, true);
        let (_, inputs, height, width) = x.dims4().unwrap();
        let mut branches = vec![self.square(&x, 256, 1, 1)];
        for dilation in [12, 24, 36] {
            let shape = ConvShape::square((inputs, 256), (3, 1), Function::Relu);
            let shape = ConvShape {
                dilation,
                padding: [dilation; 2],
                ..shape
            };
            branches.push(self.conv(&x, shape));
        }
        let pooled = x.mean_keepdim((2, 3)).unwrap();
        let pooled = self.square(&pooled, 256, 1, 1);
        branches.push(pooled.upsample_nearest2d(height, width).unwrap());
        let x = Tensor::cat(&branches, 1).unwrap();
        let x = self.square(&x, 256, 1, 1);
        let x = self.square(&x, 256, 3, 1);
        let x = self.conv(&x, ConvShape::linear(256, SEGMENTS, Function::Identity));
        let (_, _, height, width) = images.dims4().unwrap();
        let x = x.upsample_bilinear2d(height, width, false).unwrap();
        values(&x.permute((0, 2, 3, 1)).unwrap())
    }

    fn layer_norm(&mut self, x: &Tensor, epsilon: f64) -> Tensor {
        let channels = x.dim(D::Minus1).unwrap();
        let gamma = self.random.uniforms(channels, 0.8, 1.2);
        let beta = self.random.uniforms(channels, -0.1, 0.1);
        let [gamma, beta] = [gamma, beta].map(|values| Tensor::new(values, &Device::Cpu).unwrap());
        let norm = candle_nn::LayerNorm::new(gamma, beta, epsilon);
        norm.forward(x).unwrap()
    }

    /// A fully connected layer on `[batch, tokens, channels]`.
    fn linear(&mut self, x: &Tensor, outputs: usize, offset: Offset, f: Function) -> Tensor {
        let shape = ConvShape {
            offset,
            ..ConvShape::linear(x.dim(2).unwrap(), outputs, f)
        };
        let x = x.transpose(1, 2).unwrap().unsqueeze(2).unwrap();
        let y = self.conv(&x, shape).squeeze(2).unwrap();
        y.transpose(1, 2).unwrap().contiguous().unwrap()
    }

    fn encoder(
        &mut self,
        x: &Tensor,
        (layers, heads, hidden): (usize, usize, usize),
        offset: Offset,
        epsilon: f64,
    ) -> Tensor {
        let (batch, tokens, width) = x.dims3().unwrap();
        let mut x = x.clone();
        for _ in 0..layers {
            let y = self.layer_norm(&x, epsilon);
            let y = self.linear(&y, 3 * width, offset, Function::Identity);
            let parts = y.reshape((batch, tokens, 3, heads, width / heads)).unwrap();
            let part = |index| {
                let part = parts.i((.., .., index)).unwrap().transpose(1, 2).unwrap();
                part.contiguous().unwrap()
            };
            let scale = 1.0 / ((width / heads) as f64).sqrt();
            let key = part(1).transpose(2, 3).unwrap().contiguous().unwrap();
            let weights = (part(0) * scale).unwrap().matmul(&key).unwrap();
            let weights = candle_nn::ops::softmax(&weights, D::Minus1).unwrap();
            let y = weights.matmul(&part(2)).unwrap();
            let y = y.transpose(1, 2).unwrap().reshape((batch, tokens, width));
            let y = self.linear(&y.unwrap(), width, Offset::Bias, Function::Identity);
            x = (x + y).unwrap();
            let y = self.layer_norm(&x, epsilon);
            let y = self.linear(&y, hidden, Offset::Bias, Function::Gelu);
            let y = self.linear(&y, width, Offset::Bias, Function::Identity);
            x = (x + y).unwrap();
        }
        x
    }

    fn vit(&mut self, images: &Tensor) -> Vec<f32> {
        let patches = ConvShape {
            padding: [0, 0],
            offset: Offset::Bias,
            ..ConvShape::square((3, 768), (16, 16), Function::Identity)
        };
        let x = self.conv(images, patches);
        let x = x.flatten_from(2).unwrap().transpose(1, 2).unwrap();
        let (batch, patches, _) = x.dims3().unwrap();
        let class = self.random.uniforms(768, -0.1, 0.1);
        let class = Tensor::from_vec(class, (1, 1, 768), &Device::Cpu).unwrap();
        let class = class.broadcast_as((batch, 1, 768)).unwrap();
        let positions = self.random.uniforms((patches + 1) * 768, -0.1, 0.1);
        let positions = Tensor::from_vec(positions, (1, patches + 1, 768), &Device::Cpu).unwrap();
        let x = Tensor::cat(&[&class, &x], 1).unwrap();
        let x = x.broadcast_add(&positions).unwrap();
        let x = self.encoder(&x, (12, 12, 3072), Offset::Bias, 1e-6);
        let x = self.layer_norm(&x, 1e-6).i((.., ..1)).unwrap();
        let x = x.contiguous().unwrap();
        values(&self.linear(&x, CLASSES, Offset::Bias, Function::Identity))
    }

    fn whisper(&mut self, clips: &Tensor) -> Vec<f32> {
        let line = |inputs, stride| ConvShape {
            kernel: [1, 3],
            padding: [0, 1],
            offset: Offset::Bias,
            ..ConvShape::square((inputs, 512), (3, stride), Function::Gelu)
        };
        let x = self.conv(clips, line(80, 1));
        let x = self.conv(&x, line(512, 2));
        let x = x.squeeze(2).unwrap().transpose(1, 2).unwrap();
        let tokens = x.dim(1).unwrap();
        let positions: Vec<f32> = (0..tokens)
            .flat_map(|token| {
                let angle = move |i: usize| token as f32 / 10_000f32.powf(i as f32 / 255.0);
                let sines = (0..256).map(move |i| angle(i).sin());
                sines.chain((0..256).map(move |i| angle(i).cos()))
            })
            .collect();
        let positions = Tensor::from_vec(positions, (1, tokens, 512), &Device::Cpu).unwrap();
        let x = x.broadcast_add(&positions).unwrap();
        let x = self.encoder(&x, (6, 8, 2048), Offset::QueryValueBias, 1e-5);
        values(&self.layer_norm(&x, 1e-5))
    }
}

fn values(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The model and the reference must agree, and its commands must give the bits of a straight run.
fn check(
    architecture: Architecture,
    size: usize,
    reference: impl FnOnce(&mut Reference, &Tensor) -> Vec<f32>,
) {
    let inputs = Inputs::random(architecture, 2, size, 7).unwrap();
    let random = Random::new(3);
    let expected = reference(&mut Reference { random }, &inputs.0);
    let model = Model::new(architecture, size, 3).unwrap();
    let actual = model.forward(&inputs).unwrap();
    assert_eq!(actual.len(), expected.len());
    let scale = expected
        .iter()
        .fold(0.0f32, |scale, score| scale.max(score.abs()));
    assert!(scale.is_finite() && scale > 0.0);
    for (actual, expected) in actual.iter().zip(&expected) {
        assert!(
            (actual - expected).abs() <= 1e-4 * scale,
            "{actual} instead of {expected}, scale {scale}"
        );
    }

    let scores = Scores::default();
    let commands: Vec<_> = model.commands(&inputs, &scores).collect();
    assert_eq!(commands.len(), model.command_count(2));
    run(commands.into_iter());
    assert_eq!(bits(&scores.take()), bits(&actual));
}

#[test]
fn resnet18_is_candles() {
    check(Architecture::ResNet18, 40, |reference, images| {
        reference.resnet(images, [2, 2, 2, 2], false)
    });
}

#[test]
fn resnet50_is_candles() {
    check(Architecture::ResNet50, 40, |reference, images| {
        reference.resnet(images, [3, 4, 6, 3], true)
    });
}

#[test]
fn mobilenet_v2_is_candles() {
    check(Architecture::MobileNetV2, 40, Reference::mobilenet);
}

#[test]
fn deeplabv3_is_candles() {
    // Large enough that the first dilation of the pyramid reaches pixels besides its own.
    check(Architecture::DeepLabV3ResNet50, 120, Reference::deeplab);
}

#[test]
fn vit_b_16_is_candles() {
    check(Architecture::VitB16, 32, Reference::vit);
}

#[test]
fn whisper_base_encoder_is_candles() {
    check(Architecture::WhisperBaseEncoder, 41, Reference::whisper);
}
