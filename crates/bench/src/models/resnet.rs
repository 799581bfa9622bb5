//! ResNet as torchvision builds it (He et al. 2015; the bottleneck's stride is in its 3×3
//! convolution, "v1.5"), and DeepLabV3 (Chen et al. 2017) on top of it.

use super::SEGMENTS;
use super::plan::{Activation, ConvShape, Function, Op, Plan};

/// Channels inside the blocks of the four stages.
const WIDTHS: [usize; 4] = [64, 128, 256, 512];

/// How each stage begins.
const STRIDES: [usize; 4] = [1, 2, 2, 2];

/// ResNet-18.
pub(super) fn resnet18(image_size: usize) -> Plan {
    let (mut plan, image) = Plan::new([3, image_size, image_size]);
    let x = stages(&mut plan, image, [2, 2, 2, 2], basic, STRIDES);
    plan.classify(x);
    plan
}

/// ResNet-50.
pub(super) fn resnet50(image_size: usize) -> Plan {
    let (mut plan, image) = Plan::new([3, image_size, image_size]);
    let x = stages(&mut plan, image, [3, 4, 6, 3], bottleneck, STRIDES);
    plan.classify(x);
    plan
}

/// DeepLabV3 on ResNet-50, without the auxiliary head that only training uses.
pub(super) fn deeplabv3_resnet50(image_size: usize) -> Plan {
    let (mut plan, image) = Plan::new([3, image_size, image_size]);
    // The last two stages keep the size and reach as far by dilation.
    let x = stages(&mut plan, image, [3, 4, 6, 3], bottleneck, [1, 2, 1, 1]);
    let x = pyramid(&mut plan, x);
    let [hidden, segments, result] = Plan::others(x);
    let shape = ConvShape::square((PYRAMID, PYRAMID), (3, 1), Function::Relu);
    let y = plan.conv(x, shape, None, hidden);
    let shape = ConvShape::linear(PYRAMID, SEGMENTS, Function::Identity);
    let y = plan.conv(y, shape, None, segments);
    let to = Activation {
        slot: result,
        channels: SEGMENTS,
        ..image
    };
    let y = plan.then(Op::Upsample, y, to);
    plan.store(y);
    plan
}

/// Channels of a branch of the pyramid.
const PYRAMID: usize = 256;

/// Looks at the image at five scales: one pixel, three dilations, the whole.
fn pyramid(plan: &mut Plan, x: Activation) -> Activation {
    let [branch, pooled, all] = Plan::others(x);
    let all = Activation {
        slot: all,
        channels: 5 * PYRAMID,
        ..x
    };
    let narrow = ConvShape::square((x.channels, PYRAMID), (1, 1), Function::Relu);
    let wide = ConvShape::square((x.channels, PYRAMID), (3, 1), Function::Relu);
    let shapes = [narrow, wide.dilated(12), wide.dilated(24), wide.dilated(36)];
    for (index, shape) in shapes.into_iter().enumerate() {
        let y = plan.conv(x, shape, None, branch);
        plan.then(Op::Place(index * PYRAMID), y, all);
    }
    let y = plan.average_pool(x, pooled);
    let y = plan.conv(y, narrow, None, branch);
    let y = plan.then(Op::Place(4 * PYRAMID), y, all);
    let project = ConvShape::square((5 * PYRAMID, PYRAMID), (1, 1), Function::Relu);
    plan.conv(y, project, None, branch)
}

/// How a block moves over the image.
#[derive(Clone, Copy)]
struct Step {
    stride: usize,
    dilation: usize,
}

/// Adds a block of the given width.
type Block = fn(&mut Plan, Activation, usize, Step) -> Activation;

/// What comes before the classifier. A stage whose stride is 1 although its number is not the first
/// doubles the dilation instead.
fn stages(
    plan: &mut Plan,
    image: Activation,
    blocks: [usize; 4],
    block: Block,
    strides: [usize; 4],
) -> Activation {
    let stem = ConvShape::square((image.channels, 64), (7, 2), Function::Relu);
    let stem = plan.conv(image, stem, None, Plan::others(image)[0]);
    let mut x = plan.max_pool(stem);
    let mut dilation = 1;
    for (stage, (width, count)) in WIDTHS.into_iter().zip(blocks).enumerate() {
        for index in 0..count {
            let stride = if index == 0 { strides[stage] } else { 1 };
            x = block(plan, x, width, Step { stride, dilation });
            if index == 0 && strides[stage] < STRIDES[stage] {
                dilation *= 2;
            }
        }
    }
    x
}

/// Two 3×3 convolutions.
fn basic(plan: &mut Plan, x: Activation, width: usize, step: Step) -> Activation {
    let [first, second, side] = Plan::others(x);
    let shortcut = shortcut(plan, x, width, step.stride, side);
    let shape = ConvShape::square((x.channels, width), (3, step.stride), Function::Relu);
    let y = plan.conv(x, shape.dilated(step.dilation), None, first);
    let shape = ConvShape::square((width, width), (3, 1), Function::Relu);
    plan.conv(y, shape, Some(shortcut), second)
}

/// 1×1 to fewer channels, 3×3, 1×1 to four times as many.
fn bottleneck(plan: &mut Plan, x: Activation, width: usize, step: Step) -> Activation {
    let [first, second, side] = Plan::others(x);
    let shortcut = shortcut(plan, x, 4 * width, step.stride, side);
    let shape = ConvShape::square((x.channels, width), (1, 1), Function::Relu);
    let y = plan.conv(x, shape, None, first);
    let shape = ConvShape::square((width, width), (3, step.stride), Function::Relu);
    let y = plan.conv(y, shape.dilated(step.dilation), None, second);
    let shape = ConvShape::square((width, 4 * width), (1, 1), Function::Relu);
    plan.conv(y, shape, Some(shortcut), first)
}

/// What a block's result is added to: its input, projected if the shapes differ.
fn shortcut(
    plan: &mut Plan,
    x: Activation,
    channels: usize,
    stride: usize,
    slot: usize,
) -> Activation {
    if stride == 1 && x.channels == channels {
        x
    } else {
        let shape = ConvShape::square((x.channels, channels), (1, stride), Function::Identity);
        plan.conv(x, shape, None, slot)
    }
}
