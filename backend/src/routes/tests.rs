//! The whole service, called without a network.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::{Request, Response};
use hyper::body::{Frame, SizeHint};
use keystead::Store;
use serde_json::{Value, json};
use tower::ServiceExt;
use utoipa::OpenApi;

use super::*;
use crate::body::BODY_MAX;
use crate::config::Config;
use crate::openapi::Description;
use crate::state::store_options;

const PROJECT: &str = "0d0466b0e7274d9cb35df84bb474a37f";
const CONFIG: &str = r#"
    region = "cn-north-7"
    default_key_services = ["obs", "evs"]
    [[account]]
    domain_id = "3bab8e245e854f68af5967c00dd43127"
    projects = ["0d0466b0e7274d9cb35df84bb474a37f"]
    [[account.token]]
    token = "TOKENEXAMPLE"
    name = "tester"
    [[account]]
    domain_id = "another"
    projects = ["p"]
    [[account.token]]
    token = "OTHERTOKEN"
"#;

fn service(config: &str) -> (Router, Store) {
    let config = Config::parse(config).unwrap();
    let store = store_options(&config).in_memory().unwrap();
    (router(Arc::new(App::new(config, store.clone()).unwrap())), store)
}

async fn answer(router: &Router, request: Request<Body>) -> (u16, Value) {
    let response: Response<Body> = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()["x-request-id"].len(), 32);
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), BODY_MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn request(method: &str, path: &str, token: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::builder().method(method).uri(path).header("x-auth-token", token);
    request.body(body.into()).unwrap()
}

async fn call(router: &Router, method: &str, path: &str, body: Value) -> (u16, Value) {
    let path = format!("/v1.0/{PROJECT}/kms/{path}");
    let body = if body.is_null() { String::new() } else { body.to_string() };
    answer(router, request(method, &path, "TOKENEXAMPLE", body)).await
}

#[tokio::test]
async fn every_described_path_is_there_and_wants_a_caller() {
    let (router, store) = service(CONFIG);
    let description = serde_json::to_value(Description::openapi()).unwrap();
    let mut found = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{project_id}", PROJECT).replace("{version_id}", "v1.0");
            let path = path.replace(['{', '}'], "");
            let (status, _) = answer(&router, request(&method.to_uppercase(), &path, "x", "")).await;
            let expected = if operation["security"].is_null() { 200 } else { 401 };
            assert_eq!(status, expected, "{method} {path}");
            found += 1;
        }
    }
    assert_eq!(found, 32);
    assert_eq!(store.position().unwrap().commit().number(), 1, "nothing was written");
}

/// A body of so many bytes that never comes.
struct Announced(u64);

impl HttpBody for Announced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0)
    }
}

#[tokio::test]
async fn what_is_outside_of_the_api_is_refused_in_its_form() {
    let (router, store) = service(CONFIG);
    let code = |(status, body): (u16, Value)| {
        assert_eq!(body["error"]["error_code"], body["error_code"]);
        assert_eq!(body["error"]["error_msg"], body["error_msg"]);
        (status, body["error_code"].as_str().unwrap().to_owned())
    };
    let ask = |method: &str, path: &str, token: &str, body: Vec<u8>| {
        answer(&router, request(method, path, token, body))
    };
    let list = format!("/v1.0/{PROJECT}/kms/list-keys");
    let not_text = format!("/v1.0/{PROJECT}/kms/%FF/tags");
    // A body that says that it is too long, and never comes.
    let announced = request("POST", &list, "TOKENEXAMPLE", Body::new(Announced(BODY_MAX as u64 + 1)));
    let cases = [
        (ask("POST", "/nothing/here", "TOKENEXAMPLE", vec![]).await, (405, "KMS.0215")),
        (
            ask("POST", &list.replace("list-keys", "encrypt-data"), "TOKENEXAMPLE", vec![]).await,
            (405, "KMS.0215"),
        ),
        (ask("GET", "/v9", "TOKENEXAMPLE", vec![]).await, (404, "KMS.0201")),
        (ask("GET", &list, "TOKENEXAMPLE", vec![]).await, (405, "KMS.0215")),
        (ask("PATCH", "/healthz", "", vec![]).await, (405, "KMS.0215")),
        (ask("POST", &list, "OTHERTOKEN", vec![]).await, (403, "APIGW.0302")),
        (ask("POST", "/v1.0/nobodys/kms/list-keys", "TOKENEXAMPLE", vec![]).await, (403, "APIGW.0302")),
        (ask("POST", &list, "tokenexample", vec![]).await, (401, "APIGW.0301")),
        (ask("POST", &list, "TOKENEXAMPLE", vec![b' '; BODY_MAX + 1]).await, (400, "KMS.0203")),
        (answer(&router, announced).await, (400, "KMS.0203")),
        (ask("POST", &list, "TOKENEXAMPLE", vec![b'{'; BODY_MAX]).await, (400, "KMS.0202")),
        (ask("GET", "/%FF", "TOKENEXAMPLE", vec![]).await, (404, "KMS.0201")),
        (ask("GET", &not_text, "TOKENEXAMPLE", vec![]).await, (400, "KMS.0308")),
    ];
    for (number, (answered, (status, expected))) in cases.into_iter().enumerate() {
        assert_eq!(code(answered), (status, expected.to_owned()), "case {number}");
    }
    // Only the project that was called has its default keys.
    assert_eq!(store.scopes(keystead::After::Start, Limit::MAX).unwrap().items.len(), 1);
}

#[tokio::test]
async fn who_sends_slowly_keeps_nobody_waiting() {
    let (router, _) = service(&format!("limits = {{ requests = 1 }}\n{CONFIG}"));
    let slow = async |token| {
        let path = format!("/v1.0/{PROJECT}/kms/list-keys");
        answer(&router, request("POST", &path, token, Body::new(Announced(9)))).await
    };
    let quick = async {
        for _ in 0..2 {
            assert_eq!(call(&router, "POST", "list-keys", Value::Null).await.0, 200);
        }
    };
    tokio::select! {
        biased;
        slow = slow("TOKENEXAMPLE") => panic!("{slow:?}"),
        () = quick => {}
    }
    // A stranger's body is not waited for at all.
    assert_eq!(slow("a stranger's").await.0, 401);
    // Who sends too slowly is refused.
    let (router, _) = service(&format!("limits = {{ body_seconds = 1 }}\n{CONFIG}"));
    let path = format!("/v1.0/{PROJECT}/kms/create-key");
    let slow = request("POST", &path, "TOKENEXAMPLE", Body::new(Announced(9)));
    let (status, body) = answer(&router, slow).await;
    assert_eq!((status, &body["error_code"]), (408, &json!("KMS.0308")));
}

#[tokio::test]
async fn the_documented_requests_are_answered_as_documented() {
    let first = r#"
        [[account]]
        domain_id = "3bab8e245e854f68af5967c00dd43127"
        projects = ["0d0466b0e7274d9cb35df84bb474a37f"]
        [[account.key]]
        project = "0d0466b0e7274d9cb35df84bb474a37f"
        key_id = "0d0466b0-e727-4d9c-b35d-f84bb474a37f"
        key_alias = "orders-2025"
        aliases = ["kms-1234"]
        [[account.key]]
        project = "0d0466b0e7274d9cb35df84bb474a37f"
        key_id = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e"
        key_alias = "orders"
        [[account.token]]
        token = "TOKENEXAMPLE"
    "#;
    let (router, store) = service(&format!("region = \"cn-north-7\"\n{first}"));
    let key_id = "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e";
    let body = json!({"target_key_id": key_id, "alias": "kms-1234"});
    let (status, moved) = call(&router, "POST", "alias/associate", body).await;
    assert_eq!((status, &moved["key_id"], &moved["alias"]), (200, &json!(key_id), &json!("kms-1234")));
    let urn = "kms:cn-north-7:3bab8e245e854f68af5967c00dd43127:alias:kms-1234";
    assert_eq!(moved["alias_urn"], urn);

    let body = json!({"key_id": key_id, "key_alias": "test"});
    let renamed = call(&router, "POST", "update-key-alias", body).await;
    assert_eq!(renamed, (200, json!({"key_info": {"key_id": key_id, "key_alias": "test"}})));
    for name in [key_id, "alias/kms-1234", urn] {
        let described = call(&router, "POST", "describe-key", json!({"key_id": name})).await.1;
        assert_eq!(described["key_info"]["key_alias"], "test", "{name}");
    }
    let (_, instances) = call(&router, "GET", "user-instances", Value::Null).await;
    assert_eq!(instances, json!({"instance_num": 2}));
    assert!(store.verify().unwrap().is_clean());
}

#[tokio::test]
async fn lists_are_paged() {
    let (router, _) = service(CONFIG);
    for name in ["a", "b", "c"] {
        let created = call(&router, "POST", "create-key", json!({"key_alias": name})).await;
        assert_eq!(created.0, 200);
    }
    let rsa = json!({"key_alias": "rsa", "key_spec": "RSA_2048"});
    let rsa = call(&router, "POST", "create-key", rsa).await.1["key_info"]["key_id"].clone();
    // Two default keys and three more are AES_256.
    let (_, all) = call(&router, "POST", "list-keys", Value::Null).await;
    assert_eq!((&all["total"], &all["truncated"]), (&json!(5), &json!("false")));
    let mut seen = 0;
    let mut marker = json!("");
    loop {
        let body = json!({"key_spec": "ALL", "limit": 4, "marker": marker});
        let (_, page) = call(&router, "POST", "list-keys", body).await;
        seen += page["keys"].as_array().unwrap().len();
        marker = page["next_marker"].clone();
        if page["truncated"] == "false" {
            break;
        }
    }
    assert_eq!((seen, marker), (6, json!("")));
    for (body, code) in [
        (json!({"limit": 0}), "KMS.1601"),
        (json!({"limit": "2001"}), "KMS.1601"),
        (json!({"marker": "x"}), "KMS.1602"),
        (json!({"key_state": "6"}), "KMS.0308"),
        (json!({"key_spec": "DES"}), "KMS.1110"),
    ] {
        assert_eq!(call(&router, "POST", "list-keys", body).await.1["error_code"], code);
    }
    for name in ["x", "alias/y", "z"] {
        let created = call(&router, "POST", "aliases", json!({"key_id": rsa, "alias": name})).await;
        assert_eq!(created.0, 201);
    }
    let (_, page) = call(&router, "GET", "aliases?limit=2", Value::Null).await;
    assert_eq!(page["page_info"], json!({"next_marker": "alias/y", "current_count": 2}));
    let (_, page) = call(&router, "GET", "aliases?limit=2&marker=alias%2Fy", Value::Null).await;
    assert_eq!(page["aliases"][0]["alias"], "z");
    assert_eq!(page["page_info"], json!({"next_marker": "", "current_count": 1}));
    let (status, _) = call(&router, "GET", "aliases?limit=1&limit=2", Value::Null).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn each_tag_can_be_deleted() {
    let (router, _) = service(CONFIG);
    let created = call(&router, "POST", "create-key", json!({"key_alias": "tagged"})).await.1;
    let id = created["key_info"]["key_id"].as_str().unwrap();
    for name in ["a/b c", "action", "/", "action/x", "a//b/"] {
        let body = json!({"tag": {"key": name, "value": ""}});
        assert_eq!(call(&router, "POST", &format!("{id}/tags"), body).await.0, 204);
        let (_, tags) = call(&router, "GET", &format!("{id}/tags"), Value::Null).await;
        assert_eq!(tags, json!({"tags": [{"key": name, "value": ""}], "existTagsNum": 1}));
        // Some clients encode a slash, some don't.
        let encoded = crate::text::encode(name);
        let raw = encoded.replace("%2F", "/");
        let path = format!("{id}/tags/{encoded}");
        assert_eq!(call(&router, "DELETE", &path, Value::Null).await.0, 204, "{name}");
        assert_eq!(call(&router, "DELETE", &path, Value::Null).await.1["error_code"], "KMS.0416");
        let path = format!("{id}/tags/{raw}");
        assert_eq!(call(&router, "DELETE", &path, Value::Null).await.1["error_code"], "KMS.0416", "{name}");
        let body = json!({"tag": {"key": name, "value": ""}});
        assert_eq!(call(&router, "POST", &format!("{id}/tags"), body).await.0, 204);
        assert_eq!(call(&router, "DELETE", &path, Value::Null).await.0, 204, "{name}");
    }
    let body = json!({"action": "count", "tags": [{"key": "a", "values": vec!["x"; 21]}]});
    let refused = call(&router, "POST", "resource_instances/action", body).await;
    assert_eq!((refused.0, &refused.1["error_code"]), (400, &json!("KMS.0308")));
}

#[tokio::test]
async fn a_sequence_repeats_the_answer_where_it_is_told_to() {
    let sequence = "919c82d4-8046-4722-9094-35c3c6524cff";
    let body = json!({"key_alias": "once", "sequence": sequence});
    let (router, _) = service(CONFIG);
    assert_eq!(call(&router, "POST", "create-key", body.clone()).await.0, 200);
    assert_eq!(call(&router, "POST", "create-key", body.clone()).await.1["error_code"], "KMS.1104");

    let (router, _) = service(&format!("idempotent_sequence = true\n{CONFIG}"));
    let first = call(&router, "POST", "create-key", body.clone()).await;
    assert_eq!(first.0, 200);
    assert_eq!(call(&router, "POST", "create-key", body.clone()).await, first);
    let other = json!({"key_alias": "other", "sequence": sequence});
    assert_eq!(call(&router, "POST", "create-key", other).await.1["error_code"], "KMS.0206");
    let reused = json!({"key_id": first.1["key_info"]["key_id"], "sequence": sequence});
    assert_eq!(call(&router, "POST", "disable-key", reused).await.1["error_code"], "KMS.0206");

    let id = first.1["key_info"]["key_id"].as_str().unwrap();
    let path = format!("/keystead/v1/{PROJECT}/keys/{id}/history");
    let (_, history) = answer(&router, request("GET", &path, "TOKENEXAMPLE", "")).await;
    assert_eq!(history["changes"].as_array().unwrap().len(), 1);
    assert_eq!(history["changes"][0]["operation"], "create_key");
    assert_eq!(history["changes"][0]["actor"], "3bab8e245e854f68af5967c00dd43127/tester");
    assert_eq!(history["changes"][0]["request_id"], sequence);
    assert_eq!(history["changes"][0]["after"]["key_alias"], "once");
}

#[tokio::test]
async fn the_history_of_a_key_shows_all_that_its_owner_changed() {
    let (router, _) = service(CONFIG);
    let created = call(&router, "POST", "create-key", json!({"key_alias": "a"})).await.1;
    let id = created["key_info"]["key_id"].as_str().unwrap();
    let tag = json!({"key": "team", "value": "orders"});
    let tagged = call(&router, "POST", &format!("{id}/tags"), json!({"tag": tag})).await;
    assert_eq!(tagged.0, 204);
    let rotation = json!({"key_id": id, "rotation_interval": 30});
    for path in ["enable-key-rotation", "update-key-rotation-interval"] {
        assert_eq!(call(&router, "POST", path, rotation.clone()).await.0, 200, "{path}");
    }
    let path = format!("/keystead/v1/{PROJECT}/keys/{id}/history");
    let (_, history) = answer(&router, request("GET", &path, "TOKENEXAMPLE", "")).await;
    let [interval, _, tags, created] = history["changes"].as_array().unwrap().as_slice() else {
        panic!("{history}");
    };
    assert_eq!(created["after"]["tags"], json!([]));
    assert_eq!(tags["before"]["tags"], json!([]));
    assert_eq!(tags["after"]["tags"], json!([tag]));
    assert_eq!(tags["after"]["key_alias"], "a");
    assert_eq!(interval["before"]["rotation_interval"], 365);
    assert_eq!(interval["after"]["rotation_interval"], 30);
}

/// A body that comes in so many parts of so many bytes, after which it does not end, if it is not to.
struct Parts {
    left: usize,
    each: usize,
    ends: bool,
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return if self.ends { Poll::Ready(None) } else { Poll::Pending };
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![b' '; self.each])))))
    }
}

#[tokio::test]
async fn all_bodies_together_have_so_much_memory() {
    let (router, _) = service(&format!("limits = {{ body_mebibytes = 1, body_seconds = 2 }}\n{CONFIG}"));
    let path = format!("/v1.0/{PROJECT}/kms/list-keys");
    let ask = async |parts| answer(&router, request("POST", &path, "TOKENEXAMPLE", Body::new(parts))).await;
    // Its length is not known: all that it may have is its own, until it ends or is refused.
    let stalled = ask(Parts { left: 2, each: 10_000, ends: false });
    let others = async {
        let short = ask(Parts { left: 16, each: 1000, ends: true }).await;
        assert_eq!(short.0, 200, "an ordinary one does not wait: {short:?}");
        let begin = crate::state::now();
        let long = ask(Parts { left: 17, each: 1000, ends: true }).await;
        (long, begin.elapsed())
    };
    let (stalled, (long, waited)) = tokio::join!(stalled, others);
    assert_eq!((stalled.0, &stalled.1["error_code"]), (408, &json!("KMS.0308")));
    // The long one waited, and had its turn, or was told to come again.
    assert!(long.0 == 200 || (long.0, &long.1["error_code"]) == (503, &json!("KMS.0101")), "{long:?}");
    assert!(waited.as_millis() > 1000, "{waited:?}");
    for _ in 0..5 {
        assert_eq!(ask(Parts { left: 100, each: 10_000, ends: true }).await.0, 200, "all was given back");
    }
}

#[tokio::test]
async fn empty_strings_are_none_where_nothing_need_be() {
    let (router, _) = service(CONFIG);
    let key = json!({
        "key_alias": "a", "key_spec": "", "key_usage": "", "key_description": "", "origin": "",
        "enterprise_project_id": "", "keystore_id": "", "sequence": "",
    });
    let (status, created) = call(&router, "POST", "create-key", key).await;
    assert_eq!(status, 200, "{created}");
    let id = created["key_info"]["key_id"].as_str().unwrap();
    let list = json!({
        "limit": "", "marker": "", "key_state": "", "key_spec": "", "enterprise_project_id": "", "sequence": "",
    });
    let (status, all) = call(&router, "POST", "list-keys", list).await;
    assert_eq!((status, &all["total"]), (200, &json!(3)));
    let find = json!({"action": "", "limit": "", "offset": "", "sequence": ""});
    for body in [find, json!({}), Value::Null] {
        let (status, found) = call(&router, "POST", "resource_instances/action", body).await;
        assert_eq!((status, &found["total_count"]), (200, &json!(3)), "{found}");
        assert_eq!(found["resources"].as_array().unwrap().len(), 3);
    }
    assert_eq!(call(&router, "GET", "aliases?limit=&marker=&key_id=", Value::Null).await.0, 200);
    // Where something must be, it is a wrong one.
    for (path, body, code) in [
        ("create-key", json!({"key_alias": ""}), "KMS.1101"),
        ("describe-key", json!({"key_id": ""}), "KMS.0205"),
        ("enable-key", json!({"key_id": "", "sequence": ""}), "KMS.0205"),
        ("alias/associate", json!({"alias": "a", "target_key_id": ""}), "KMS.0205"),
        ("schedule-key-deletion", json!({"key_id": id, "pending_days": ""}), "KMS.1401"),
        ("update-key-rotation-interval", json!({"key_id": id, "rotation_interval": ""}), "KMS.3001"),
    ] {
        let (status, refused) = call(&router, "POST", path, body).await;
        assert_eq!((status, &refused["error_code"]), (400, &json!(code)), "{path}");
    }
}

#[tokio::test]
async fn each_alias_can_be_described() {
    let (router, _) = service(CONFIG);
    let (_, created) = call(&router, "POST", "create-key", json!({"key_alias": "a"})).await;
    let id = created["key_info"]["key_id"].clone();
    let long = ["n".repeat(249), "m".repeat(250), "l".repeat(255)];
    for alias in ["default", "x", "alias/y", "alias/alias/z", "kms:w", long[0].as_str(), &long[1], &long[2]] {
        assert_eq!(
            call(&router, "POST", "aliases", json!({"key_id": id, "alias": alias})).await.0,
            201,
            "{alias}"
        );
        let name = alias.strip_prefix("alias/").unwrap_or(alias);
        let urn = format!("kms:cn-north-7:3bab8e245e854f68af5967c00dd43127:alias:{name}");
        for key_id in [format!("alias/{name}"), urn] {
            let (status, described) = call(&router, "POST", "describe-key", json!({"key_id": key_id})).await;
            assert_eq!((status, &described["key_info"]["key_id"]), (200, &id), "{key_id}");
        }
    }
    for (key_id, refused) in [
        (format!("alias/{}", "n".repeat(256)), (400, "KMS.1101")),
        ("alias/a/default".to_owned(), (400, "KMS.1101")),
        ("alias/a b".to_owned(), (400, "KMS.1101")),
        (format!("alias/{}", "k".repeat(255)), (404, "KMS.0207")),
        ("alias/absent".to_owned(), (404, "KMS.0207")),
        ("alias/".to_owned(), (404, "KMS.0207")),
    ] {
        let (status, answer) = call(&router, "POST", "describe-key", json!({"key_id": key_id})).await;
        assert_eq!((status, answer["error_code"].as_str().unwrap()), refused, "{key_id}");
    }
}
