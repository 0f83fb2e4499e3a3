//! Reaching into a specification that is kept as JSON: fields that nobody here knows stay as they are.

use serde_json::{Map, Value};

pub type Object = Map<String, Value>;

/// The object at a path of keys, made where there is none.
pub fn object<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Object {
    let mut at = value;
    for key in path {
        at = own(at).entry(*key).or_insert(Value::Null);
    }
    own(at)
}

/// The list at a key of an object, made where there is none.
pub fn list<'a>(object: &'a mut Object, key: &str) -> &'a mut Vec<Value> {
    let at = object.entry(key).or_insert(Value::Null);
    if !at.is_array() {
        *at = Value::Array(Vec::new());
    }
    at.as_array_mut().expect("it was made a list above")
}

/// The strings of the list at a path; those that are none are passed over.
pub fn strings(value: &Value, path: &str) -> Vec<String> {
    let list = value.pointer(path).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

fn own(value: &mut Value) -> &mut Object {
    if !value.is_object() {
        *value = Value::Object(Object::new());
    }
    value.as_object_mut().expect("it was made an object above")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_missing_is_made_and_what_is_there_stays() {
        let mut value = json!({"linux": {"other": 1, "resources": null}});
        object(&mut value, &["linux", "resources", "cpu"]).insert("shares".into(), 2.into());
        list(object(&mut value, &["linux"]), "devices").push(json!({"path": "/dev/x"}));
        assert_eq!(
            value,
            json!({"linux": {"other": 1, "resources": {"cpu": {"shares": 2}}, "devices": [{"path": "/dev/x"}]}})
        );
        assert_eq!(strings(&json!({"a": ["x", 1, "y"]}), "/a"), ["x", "y"]);
    }
}
