//! Prints the table of all runs; with a world's name, that world alone; with `--trace`, the steps
//! of each counterexample as well; with `--deep`, the larger worlds, which takes minutes.

use std::io::{self, Write};

use headcount_protocol_model::check::{self, Subject, TABLE_HEAD};
use headcount_protocol_model::rules::Rules;

fn main() -> io::Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let trace = wanted.iter().any(|word| word == "--trace");
    let names: Vec<&String> = wanted
        .iter()
        .filter(|word| !word.starts_with("--"))
        .collect();
    let named =
        |world: &Subject| names.is_empty() || names.iter().any(|name| *name == world.name());

    let deep = wanted.iter().any(|word| word == "--deep");
    let whole = if deep {
        Subject::deep()
    } else {
        Subject::all()
    };
    let whole = whole.into_iter().map(|world| (world, Rules::all()));
    let ablated = check::ablations()
        .into_iter()
        .map(|(world, rules)| (world, Rules::all().without(&rules)));
    let ablated = ablated.filter(|_| !deep);
    let mut out = io::stdout().lock();
    writeln!(out, "{TABLE_HEAD}")?;
    for (world, rules) in whole.chain(ablated).filter(|(world, _)| named(world)) {
        let report = check::run(world, rules);
        writeln!(out, "{report}")?;
        if let Some(found) = report.counterexample.filter(|_| trace) {
            for (place, step) in found.steps.iter().enumerate() {
                writeln!(out, "    {:2} {step}", place + 1)?;
            }
            if wanted.iter().any(|word| word == "--end") {
                writeln!(out, "{}", found.end)?;
            }
        }
        out.flush()?;
    }
    Ok(())
}
