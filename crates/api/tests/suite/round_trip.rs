//! Every definition of the schema table, filled with values of every kind, goes to protobuf and back, and through
//! decoding unchanged.

use api::decode::{self, Mode};
use api::proto;
use api::schema::{self, Definition, Kind};
use serde_json::{Map, Value, json};

/// A deterministic source of variety: xorshift, so that a failure names a seed that repeats it.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

fn object(definition: &'static Definition, dice: &mut Dice, depth: usize) -> Value {
    let mut fields = Map::new();
    for field in &definition.fields {
        // `kind` and `apiVersion` are the envelope's in protobuf; deep trees are kept small.
        if field.tag != 0 && dice.roll(depth + 2) < 2 && depth < 9 {
            fields.insert(field.json_name.clone(), value(&field.kind, dice, depth));
        }
    }
    Value::Object(fields)
}

fn value(kind: &Kind, dice: &mut Dice, depth: usize) -> Value {
    fn pick<const N: usize>(dice: &mut Dice, values: [Value; N]) -> Value {
        values[dice.roll(N)].clone()
    }
    match kind {
        Kind::String => pick(dice, [json!("a"), json!("ä, b"), json!("x-y")]),
        Kind::Bool => json!(true),
        Kind::Int32 => pick(dice, [json!(1), json!(i32::MIN), json!(i32::MAX)]),
        Kind::Int64 => pick(dice, [json!(1), json!(i64::MIN), json!(i64::MAX)]),
        Kind::Bytes => pick(dice, [json!("AAEC"), json!("/w==")]),
        Kind::Quantity => pick(dice, [json!("100m"), json!("1Gi"), json!("5e3")]),
        Kind::IntOrString => pick(dice, [json!(-1), json!(80), json!("http")]),
        Kind::Time => pick(dice, [json!("2026-01-01T00:00:00Z"), json!("1960-02-29T23:59:59Z")]),
        Kind::MicroTime => pick(dice, [json!("2026-01-01T00:00:00.000001Z"), json!("1960-02-29T23:59:59.999999Z")]),
        Kind::RawExtension | Kind::FieldsV1 => json!({"f:a": {"k:{\"b\":1}": {}}}),
        Kind::Items => json!(["a", "b"]),
        Kind::Message(name) => object(schema::definition(name).expect("defined"), dice, depth + 1),
        Kind::List(element) => (0..=dice.roll(2)).map(|_| value(element, dice, depth + 1)).collect(),
        Kind::Map(element) => json!({"k": value(element, dice, depth + 1), "l.m/n": value(element, dice, depth + 1)}),
    }
}

#[test]
fn every_definition_goes_to_protobuf_and_back() {
    let mut names: Vec<&String> = schema::definitions().keys().collect();
    names.sort();
    for (index, name) in names.into_iter().enumerate() {
        let definition = schema::definition(name).expect("listed");
        for seed in 1..=10 {
            let mut dice = Dice(seed * 7919 + index as u64);
            let made = object(definition, &mut dice, 0);
            let shaped = decode::value(made, definition, Mode::Strict).unwrap_or_else(|e| panic!("{name}: {e}")).object;
            let again = decode::value(shaped.clone(), definition, Mode::Strict).expect("decodes again").object;
            assert_eq!(shaped, again, "{name}, seed {seed}: the shape isn't stable");
            let bytes = proto::encode_object(&shaped, definition).unwrap_or_else(|e| panic!("{name}: {e}"));
            let back = decode::protobuf(&bytes, definition).unwrap_or_else(|e| panic!("{name}: {e}")).object;
            assert_eq!(shaped, back, "{name}, seed {seed}");
            let text = serde_json::to_vec(&shaped).expect("JSON");
            assert_eq!(decode::json(&text, definition, Mode::Strict).expect("JSON decodes").object, shaped);
        }
    }
}
