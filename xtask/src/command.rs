//! Running other programs: their output streams, or is kept for the case that they fail.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use duct::Expression;

/// Runs `expression` with its output on ours. `what` names it in the error.
pub fn stream(what: &str, expression: &Expression) -> Result<()> {
    let output = expression.unchecked().run().with_context(|| what.to_owned())?;
    if !output.status.success() {
        bail!("{what}: {}", output.status);
    }
    Ok(())
}

/// Runs `expression` silently and returns its standard output; what it said is part of the error
/// if it fails. `what` names it there.
pub fn quiet(what: &str, expression: &Expression) -> Result<String> {
    let output = expression
        .stdin_null()
        .stdout_capture()
        .stderr_capture()
        .unchecked()
        .run()
        .with_context(|| what.to_owned())?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}\n{}{}", output.status, stdout, stderr);
    }
    Ok(stdout)
}

/// Like [`quiet`], up to three times with a pause between: for what depends on a network or on a
/// lock that another program holds for a moment.
pub fn quiet_with_retries(what: &str, expression: &Expression) -> Result<String> {
    const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(8)];
    for pause in PAUSES {
        match quiet(what, expression) {
            Ok(output) => return Ok(output),
            Err(_) => thread::sleep(pause),
        }
    }
    quiet(what, expression)
}
