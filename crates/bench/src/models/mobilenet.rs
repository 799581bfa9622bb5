//! MobileNetV2 as torchvision builds it (Sandler et al. 2018).

use super::plan::{Activation, ConvShape, Function, Plan};

/// Expansion, channels, blocks and first stride of each stage.
const STAGES: [(usize, usize, usize, usize); 7] = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
];

/// MobileNetV2.
pub(super) fn mobilenet_v2(image_size: usize) -> Plan {
    let (mut plan, image) = Plan::new([3, image_size, image_size]);
    let stem = ConvShape::square((image.channels, 32), (3, 2), Function::Relu6);
    let mut x = plan.conv(image, stem, None, Plan::others(image)[0]);
    for (expansion, channels, blocks, stride) in STAGES {
        for index in 0..blocks {
            let stride = if index == 0 { stride } else { 1 };
            x = inverted_residual(&mut plan, x, expansion, channels, stride);
        }
    }
    let head = ConvShape::square((x.channels, 1280), (1, 1), Function::Relu6);
    let x = plan.conv(x, head, None, Plan::others(x)[0]);
    plan.classify(x);
    plan
}

/// 1×1 to more channels, 3×3 in each channel by itself, 1×1 to fewer.
fn inverted_residual(
    plan: &mut Plan,
    x: Activation,
    expansion: usize,
    channels: usize,
    stride: usize,
) -> Activation {
    let [first, second, _] = Plan::others(x);
    let hidden = expansion * x.channels;
    let mut y = x;
    if expansion > 1 {
        let shape = ConvShape::square((x.channels, hidden), (1, 1), Function::Relu6);
        y = plan.conv(y, shape, None, first);
    }
    let shape = ConvShape {
        depthwise: true,
        ..ConvShape::square((hidden, hidden), (3, stride), Function::Relu6)
    };
    let y = plan.conv(y, shape, None, second);
    let residual = (stride == 1 && x.channels == channels).then_some(x);
    let shape = ConvShape::square((hidden, channels), (1, 1), Function::Identity);
    plan.conv(y, shape, residual, first)
}
