//! How many commands are simulated a second: the promise is 2 million on one core (`cargo bench -p xsched-sim`).

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use xsched_sim::{Scenario, run};

const SCENARIO: &str = r#"
name = "speed"
duration = "10s"

[[device]]
name = "gpu"
slice = "2ms"
switch = "100us"

[[task]]
name = "high"
arrival = { poisson = "10ms" }
commands = 20
command = { lognormal = { median = "50us", sigma = 0.3 } }
hints = { priority = "high" }

[[task]]
name = "low"
count = 4
arrival = { closed = "1ms" }
commands = 200
command = { exponential = "50us" }
"#;

fn commands(criterion: &mut Criterion) {
    let scenario = Scenario::parse(SCENARIO).expect("is well-formed");
    let mut group = criterion.benchmark_group("commands");
    group.sample_size(10);
    for policy in ["fifo", "hpf", "cfs", "kedf", "mlfq", "slo"] {
        let commands = run(&scenario, policy).expect("is known").commands;
        group.throughput(Throughput::Elements(commands));
        group.bench_function(policy, |bencher| {
            bencher.iter(|| black_box(run(&scenario, policy).expect("is known")));
        });
    }
    group.finish();
}

criterion_group!(benches, commands);
criterion_main!(benches);
