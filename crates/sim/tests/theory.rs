//! The policies against theory: preemptive, without cost of switching, on one device.

use proptest::prelude::*;
use std::fmt::Write;
use xsched_sched::{
    DeviceId, Nanos,
    policy::{Hpf, Slo},
};
use xsched_sim::*;

const US: Nanos = 1_000;
const MS: Nanos = 1_000 * US;

/// A device of level 3, where a decision costs nothing and takes no time.
fn ideal(duration: &str, min_share: f64) -> String {
    format!(
        "name = \"theory\"\nduration = \"{duration}\"\nmin_share = {min_share:?}\n[[device]]\nname = \"d\"\nlevel = 3\n"
    )
}

fn add(text: &mut String, name: &str, arrival: &str, command: &str, hints: &str) {
    let _ = writeln!(
        text,
        "[[task]]\nname = \"{name}\"\narrival = {arrival}\ncommand = {command}\nhints = {{ {hints} }}"
    );
}

/// Periods and utilizations of a task set: (period in ms, length in µs).
fn task_set(most: f64) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let period = prop::sample::select(vec![2_u64, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24, 30, 40]);
    prop::collection::vec((period, 1..1_000_u32), 2..8).prop_map(move |tasks| {
        let parts: u32 = tasks.iter().map(|(_, part)| part).sum();
        let length = |(period, part): (u64, u32)| {
            let utilization = most * f64::from(part) / f64::from(parts);
            (
                period,
                ((utilization * period as f64 * 1_000.0) as u64).max(1),
            )
        };
        tasks.into_iter().map(length).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Earliest deadline first is optimal: with deadlines at the periods and a load of at most 1, none is missed.
    #[test]
    fn kedf_meets_every_deadline_up_to_full_load(tasks in task_set(0.999), offsets in prop::collection::vec(0..40_u64, 8)) {
        let mut text = ideal("2400ms", 0.0);
        for (index, ((period, length), offset)) in tasks.iter().zip(&offsets).enumerate() {
            let (arrival, hints) = (format!("{{ periodic = \"{period}ms\" }}"), format!("deadline = \"{period}ms\""));
            add(&mut text, &index.to_string(), &arrival, &format!("{{ fixed = \"{length}us\" }}"), &hints);
            let _ = writeln!(text, "start = \"{offset}ms\"");
        }
        let report = run(&Scenario::parse(&text).unwrap(), "kedf").unwrap();
        for task in &report.tasks {
            prop_assert!(task.requests > 10);
            prop_assert_eq!(task.late, 0, "{}: {} ms", &task.name, task.latency_max_ms);
        }
    }

    /// Fixed priorities have exactly the worst response times of response-time analysis, when all begin at once.
    #[test]
    fn hpf_has_the_response_times_of_analysis(tasks in task_set(0.9)) {
        let mut text = ideal("2400ms", 0.0);
        for (index, (period, length)) in tasks.iter().enumerate() {
            let (arrival, hints) = (format!("{{ periodic = \"{period}ms\" }}"), format!("priority = {}", 100 - index));
            add(&mut text, &index.to_string(), &arrival, &format!("{{ fixed = \"{length}us\" }}"), &hints);
        }
        let scenario = Scenario::parse(&text).unwrap();
        let report = run_with(&scenario, Box::new(Hpf::to_the_letter()), false).0;
        for (index, task) in report.tasks.iter().enumerate() {
            let Some(worst) = response_time(&tasks, index) else { continue };
            prop_assert_eq!(task.latencies.iter().max(), Some(&(worst * US)), "task {} of {:?}", index, tasks);
        }
    }
}

/// The least R with R = C + Σ over higher priorities of ⌈R / T⌉ · C, µs; none if it is beyond the period.
fn response_time(tasks: &[(u64, u64)], index: usize) -> Option<u64> {
    let (period, own) = tasks[index];
    let mut time = own;
    loop {
        let interference = tasks[..index]
            .iter()
            .map(|(t, c)| time.div_ceil(t * 1_000) * c);
        let next = own + interference.sum::<u64>();
        if next > period * 1_000 {
            return None;
        }
        if next == time {
            return Some(time);
        }
        time = next;
    }
}

#[test]
fn lax_switches_at_ready_plus_laxity() {
    for laxity in [1_u64, 777, 5_000, 12_345] {
        let mut text = ideal("1s", 0.0);
        let hints = format!("laxity = \"{laxity}us:-10:50\"");
        add(
            &mut text,
            "lax",
            "{ periodic = \"100ms\" }",
            "{ fixed = \"3ms\" }",
            &hints,
        );
        add(
            &mut text,
            "hog",
            "{ closed = \"0us\" }",
            "{ fixed = \"1s\" }",
            "priority = 0",
        );
        let (report, segments) = run_with(
            &Scenario::parse(&text).unwrap(),
            xsched_sched::policy::by_name("lax").unwrap(),
            true,
        );
        let starts: Vec<Nanos> = segments
            .iter()
            .filter(|segment| segment.task == 0)
            .map(|segment| segment.start)
            .collect();
        let expect: Vec<Nanos> = (0..10)
            .map(|number| number * 100 * MS + laxity * US)
            .collect();
        assert_eq!(starts, expect);
        assert_eq!(report.tasks[0].requests, 10);
    }
}

/// Tasks that always have work get these shares, within 1 %.
#[track_caller]
fn check_shares(policy: &str, hint: &str, stated: &[u64], expect: &[f64]) {
    let mut text = ideal("60s", 5.0);
    for (index, stated) in stated.iter().enumerate() {
        let length = format!(
            "{{ lognormal = {{ median = \"{}us\", sigma = 0.5 }} }}",
            200 + 300 * index
        );
        add(
            &mut text,
            &index.to_string(),
            "{ closed = \"0us\" }",
            &length,
            &format!("{hint} = {stated}"),
        );
    }
    let report = run(&Scenario::parse(&text).unwrap(), policy).unwrap();
    let shares: Vec<f64> = report.tasks.iter().map(|task| task.share).collect();
    for (share, expect) in shares.iter().zip(expect) {
        assert!(
            (share - expect).abs() <= 0.01,
            "{policy} {stated:?}: {shares:?}"
        );
    }
    assert!(
        report.utilization > 0.999,
        "{policy} loses {}",
        1.0 - report.utilization
    );
}

#[test]
fn shares_are_kept() {
    for policy in ["up", "pup", "spup"] {
        check_shares(policy, "utilization", &[75, 25], &[0.75, 0.25]);
        check_shares(policy, "utilization", &[50, 30, 20], &[0.5, 0.3, 0.2]);
    }
    check_shares("cfs", "weight", &[75, 25], &[0.75, 0.25]);
    check_shares("cfs", "weight", &[500, 300, 200], &[0.5, 0.3, 0.2]);
    check_shares("cfs", "weight", &[100, 100, 100, 100], &[0.25; 4]);
}

#[test]
fn spup_gives_no_idle_share_away() {
    let mut text = ideal("60s", 0.0);
    add(
        &mut text,
        "half",
        "{ closed = \"0us\" }",
        "{ fixed = \"300us\" }",
        "utilization = 50",
    );
    add(
        &mut text,
        "rare",
        "{ periodic = \"500ms\" }",
        "{ fixed = \"5ms\" }",
        "utilization = 50",
    );
    let report = run(&Scenario::parse(&text).unwrap(), "spup").unwrap();
    assert!(
        (report.tasks[0].share - 0.5).abs() < 0.01,
        "{}",
        report.tasks[0].share
    );
}

#[test]
fn mlfq_needs_no_hint_for_an_interactive_task() {
    let interactive = |text: &mut String| {
        add(
            text,
            "interactive",
            "{ poisson = \"40ms\" }",
            "{ uniform = [\"1ms\", \"4ms\"] }",
            "",
        );
    };
    // As a real device: level 2, switches cost.
    let device = "name = \"mix\"\nduration = \"120s\"\nwarm_up = \"5s\"\n[[device]]\nname = \"d\"\nlevel = 2\nswitch = \"100us\"\nreaction = \"40us\"\n";
    let mut alone = device.to_owned();
    interactive(&mut alone);
    let mut mixed = alone.clone();
    for hog in 0..3 {
        add(
            &mut mixed,
            &format!("hog {hog}"),
            "{ closed = \"1ms\" }",
            "{ fixed = \"300us\" }\ncommands = 2000",
            "",
        );
    }
    let p99 = |text: &str, policy| {
        run(&Scenario::parse(text).unwrap(), policy).unwrap().tasks[0].latency_p99_ms
    };
    let (alone, mlfq, cfs) = (p99(&alone, "mlfq"), p99(&mixed, "mlfq"), p99(&mixed, "cfs"));
    println!("P99 alone {alone} ms, mlfq {mlfq} ms, cfs {cfs} ms");
    assert!(mlfq <= 1.3 * alone, "{mlfq} ms, alone {alone} ms");
    assert!(cfs > 2.0 * alone, "there is something to win: {cfs} ms");
}

/// The part of windows of so many requests whose P99 is within the target, and the background's share.
fn judge(report: &Report, target: Nanos) -> (f64, f64) {
    let windows: Vec<bool> = report.tasks[0]
        .latencies
        .chunks_exact(500)
        .map(|window| window.iter().filter(|latency| **latency > target).count() <= 5)
        .collect();
    assert!(windows.len() >= 100, "{} windows", windows.len());
    let held = windows.iter().filter(|held| **held).count();
    (held as f64 / windows.len() as f64, report.tasks[1].share)
}

#[test]
fn slo_holds_the_target_and_wastes_little() {
    // A service in a closed loop, so that the background has only what the target leaves.
    let mut text = "name = \"slo\"\nduration = \"3000s\"\nwarm_up = \"300s\"\nmin_share = 0.0\n[[device]]\nname = \"d\"\nlevel = 2\nswitch = \"50us\"\n".to_owned();
    add(
        &mut text,
        "service",
        "{ closed = \"200us\" }",
        "{ lognormal = { median = \"400us\", sigma = 0.1 } }\ncommands = 40",
        "latency_target = \"28ms\"",
    );
    add(
        &mut text,
        "batch",
        "{ closed = \"0us\" }",
        "{ fixed = \"200us\" }",
        "",
    );
    let scenario = Scenario::parse(&text).unwrap();
    let target = 28 * MS;
    let (held, share) = judge(&run(&scenario, "slo").unwrap(), target);
    let fixed = (0..=9).filter_map(|step| {
        let allowance = 0.78 + f64::from(step) * 0.02;
        let (held, share) = judge(
            &run_with(&scenario, Box::new(Slo::fixed(allowance)), false).0,
            target,
        );
        println!("fixed {allowance:.2}: held {held:.3}, batch {share:.3}");
        (held >= 0.99).then_some(share)
    });
    let best = fixed.fold(0.0, f64::max);
    println!("slo: held {held:.4}, batch {share:.4}; best fixed {best:.4}");
    assert!(held >= 0.99, "held in {held} of the windows");
    assert!(
        share >= 0.9 * best,
        "batch {share}, the best fixed share gives {best}"
    );
}

#[test]
fn slo_comes_to_rest() {
    let mut text = "name = \"slo\"\nduration = \"1200s\"\nmin_share = 0.0\n[[device]]\nname = \"d\"\nlevel = 2\n".to_owned();
    add(
        &mut text,
        "service",
        "{ closed = \"200us\" }",
        "{ fixed = \"400us\" }\ncommands = 40",
        "latency_target = \"28ms\"",
    );
    add(
        &mut text,
        "batch",
        "{ closed = \"0us\" }",
        "{ fixed = \"200us\" }",
        "",
    );
    let (report, segments) = run_with(
        &Scenario::parse(&text).unwrap(),
        Box::new(Slo::default()),
        true,
    );
    assert!(report.tasks[0].requests > 1_000);
    // The background's share of each 20 s after the first 200 s.
    let share = |from: Nanos| {
        let to = from + 20_000 * MS;
        let batch = segments.iter().filter(|segment| segment.task == 1);
        let time: Nanos = batch
            .map(|segment| segment.end.min(to).saturating_sub(segment.start.max(from)))
            .sum();
        time as f64 / (20_000 * MS) as f64
    };
    let shares: Vec<f64> = (10..60).map(|number| share(number * 20_000 * MS)).collect();
    let (least, most) = shares
        .iter()
        .fold((1.0_f64, 0.0_f64), |(least, most), share| {
            (least.min(*share), most.max(*share))
        });
    println!("batch between {least:.3} and {most:.3}");
    assert!(
        most - least < 0.06,
        "between {least} and {most}: {shares:?}"
    );
    assert_eq!(Slo::default().allowance(DeviceId(0)), 0.5);
}

#[test]
fn a_run_is_repeatable_from_its_seed() {
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/scenarios/three-tenants.toml"
    ))
    .unwrap();
    let text = text.replace("duration = \"120s\"", "duration = \"10s\"");
    let scenario = Scenario::parse(&text).unwrap();
    for about in xsched_sched::policy::POLICIES {
        assert_eq!(
            run(&scenario, about.name).unwrap(),
            run(&scenario, about.name).unwrap()
        );
    }
    let other = Scenario {
        seed: 2,
        ..scenario.clone()
    };
    assert_ne!(run(&scenario, "hpf").unwrap(), run(&other, "hpf").unwrap());
}
