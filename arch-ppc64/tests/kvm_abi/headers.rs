//! Asks a C compiler whether the kernel’s own headers agree with our numbers.
//!
//! A [`Row`] is a C expression and the value that Rust has for it. All rows become
//! `_Static_assert`s of one C file, which is compiled for POWER against `<linux/kvm.h>`; nothing is
//! linked or run, so this works on any host with a cross compiler.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

/// A C expression, and what it must be.
pub struct Row {
    /// The expression, a constant one.
    pub c: String,
    /// Our value.
    pub rust: u64,
}

/// The size of the field that a projection names.
pub fn field_size<T, F>(_: fn(&T) -> &F) -> u64 {
    size_of::<F>() as u64
}

/// Rows for a structure: its size, and offset and size of each field given.
#[macro_export]
macro_rules! layout {
    ($struct:ident { $($field:ident),* $(,)? }) => {
        [
            $crate::headers::Row {
                c: format!("sizeof(struct {})", stringify!($struct)),
                rust: size_of::<$struct>() as u64,
            },
            $(
                $crate::headers::Row {
                    c: format!("offsetof(struct {}, {})", stringify!($struct), stringify!($field)),
                    rust: std::mem::offset_of!($struct, $field) as u64,
                },
                $crate::headers::Row {
                    c: format!(
                        "sizeof(((struct {} *)0)->{})", stringify!($struct), stringify!($field)
                    ),
                    rust: $crate::headers::field_size(|s: &$struct| &s.$field),
                },
            )*
        ]
    };
}

/// Rows for constants that have the same name here and there, as `u64`.
#[macro_export]
macro_rules! constants {
    ($($name:ident),* $(,)?) => {
        [$({
            #[allow(clippy::cast_lossless, reason = "the constants differ in width")]
            let rust = $name as u64;
            $crate::headers::Row { c: stringify!($name).into(), rust }
        }),*]
    };
}

/// Rows for request numbers.
#[macro_export]
macro_rules! requests {
    ($($name:ident),* $(,)?) => {
        [$($crate::headers::Row { c: stringify!($name).into(), rust: $name.number().into() }),*]
    };
}

/// What came of a check.
pub enum Verdict {
    /// The headers agree with every row.
    Agrees,
    /// They don’t; the compiler’s words name the rows.
    Differs(String),
    /// There is no compiler for POWER here, or it has no kernel headers.
    NoHeaders(String),
}

/// A compiler for POWER that has the kernel’s headers: the one that `POWERPC64LE_CC` names, a cross
/// compiler, or a POWER host’s own.
fn compiler() -> Result<String, String> {
    let source = "#ifndef __powerpc64__\n#error not a compiler for POWER\n#endif\n\
                  #include <linux/kvm.h>\n";
    let mut reasons = String::new();
    let named = std::env::var("POWERPC64LE_CC").ok();
    for name in named.into_iter().chain(["powerpc64le-linux-gnu-gcc", "cc"].map(str::to_owned)) {
        let reason = match compile(&name, source) {
            Ok(Ok(())) => return Ok(name),
            Ok(Err(message)) => message,
            Err(error) => error.to_string(),
        };
        write!(reasons, "{name}: {reason} ").expect("writing to a String");
    }
    Err(reasons)
}

/// Compiles C source without making anything of it.
fn compile(compiler: &str, source: &str) -> io::Result<Result<(), String>> {
    let mut child = Command::new(compiler)
        .args(["-std=gnu11", "-fsyntax-only", "-x", "c", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(source.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    Ok(if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// Checks rows against the headers.
pub fn verdict(rows: &[Row]) -> Verdict {
    let name = match compiler() {
        Ok(name) => name,
        Err(why) => return Verdict::NoHeaders(why),
    };
    let mut source = String::from("#include <stddef.h>\n#include <linux/kvm.h>\n");
    for Row { c, rust } in rows {
        writeln!(
            source,
            "_Static_assert((unsigned long long)({c}) == {rust:#x}ULL, \"{c} is not {rust:#x}\");"
        )
        .expect("writing to a String");
    }
    match compile(&name, &source) {
        Ok(Ok(())) => Verdict::Agrees,
        Ok(Err(message)) => Verdict::Differs(message),
        Err(error) => Verdict::NoHeaders(format!("{name}: {error}")),
    }
}

/// Fails unless the headers agree with every row. Without headers it says so, and fails only if
/// `REQUIRE_KVM_HEADERS` is set.
pub fn assert_agrees(rows: &[Row]) {
    assert!(!rows.is_empty());
    match verdict(rows) {
        Verdict::Agrees => {}
        Verdict::Differs(message) => panic!("the kernel’s headers differ:\n{message}"),
        Verdict::NoHeaders(why) => not_run(&why),
    }
}

/// Fails unless the headers contradict a row that is wrong by intent: shows that a wrong number
/// would be found.
pub fn assert_differs(wrong: Row) {
    let c = wrong.c.clone();
    match verdict(&[wrong]) {
        Verdict::Agrees => panic!("a wrong value for {c} went unnoticed"),
        Verdict::Differs(message) => assert!(message.contains(&c), "{message}"),
        Verdict::NoHeaders(why) => not_run(&why),
    }
}

fn not_run(why: &str) {
    // `eprintln!` would be captured; a skipped check must be seen.
    writeln!(io::stderr(), "NOT CHECKED against the kernel’s headers: {why}")
        .expect("standard error");
    assert!(
        std::env::var_os("REQUIRE_KVM_HEADERS").is_none(),
        "REQUIRE_KVM_HEADERS is set, and there are none: {why}"
    );
}
