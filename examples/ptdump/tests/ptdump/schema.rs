//! What is printed as JSON is what the schema in this package says.

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use crate::support::program;

const SCHEMA: &str = include_str!("../../schema/ptdump.schema.json");

thread_local! {
    static COMPILED: (Schemas, SchemaIndex) = {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        let schema = serde_json::from_str(SCHEMA).unwrap();
        compiler.add_resource("ptdump.json", schema).unwrap();
        let index = compiler.compile("ptdump.json", &mut schemas).unwrap();
        (schemas, index)
    };
}

/// Whether `value` is as the schema says; a test that prints JSON fails if it is not.
pub fn check(value: &Value) {
    COMPILED.with(|(schemas, index)| {
        if let Err(error) = schemas.validate(value, *index) {
            panic!("{error:#}\n{value:#}");
        }
    });
}

#[test]
fn case_stumble_the_schema_is_printed_and_refuses_what_is_none() {
    let output = program().arg("schema").output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), SCHEMA);
    for wrong in ["[]", "{}", r#"{"schema": 2}"#] {
        let value = serde_json::from_str(wrong).unwrap();
        COMPILED.with(|(schemas, index)| assert!(schemas.validate(&value, *index).is_err()));
    }
}
