//! What the SDKs sign, and what nobody signed.

use axum::http::{HeaderName, HeaderValue};

use super::*;

// Each signature was made by `huaweicloudsdkcore` 3.1.219 itself.
const PROJECT: &str = "0d0466b0e7274d9cb35df84bb474a37f";
const KMS: &str = "/v1.0/0d0466b0e7274d9cb35df84bb474a37f/kms";
const SIGNED: &str = "Access=AKEXAMPLE, SignedHeaders=content-type;host;user-agent;x-project-id;x-sdk-date";
const BODY: &str = r#"{"key_id": "bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e", "key_alias": "test"}"#;
const POST: &str = "73845c9fcf4f95cc11f10952324ad98845dad3b3671b67f07065da34a8110d1b";
const GET: &str = "0567e5329520daf70f39e97eb8a1e5bbff0331fd5208c12ac7affe444d4e0944";
const DELETE: &str = "3b320ae56519a76f1d130d3db5129b8225bde4358af960e15f571f45f217d5d0";

fn headers(content_type: &str, agent: &str) -> HeaderMap {
    let pairs = [
        ("content-type", content_type),
        ("user-agent", agent),
        ("x-sdk-date", "20260101T120000Z"),
        ("x-project-id", PROJECT),
        ("host", "127.0.0.1:8080"),
    ];
    let pair = |(name, value): (&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    pairs.into_iter().map(pair).collect()
}

fn now() -> Timestamp {
    let seconds = text::basic_time("20260101T120000Z").unwrap();
    Timestamp::from_millis(u64::try_from(seconds).unwrap() * 1000)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(now().as_millis().checked_add_signed(seconds * 1000).unwrap())
}

/// A whole request.
struct Signed<'a> {
    method: &'a str,
    path: &'a str,
    query: &'a str,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl<'a> Signed<'a> {
    fn head(&self) -> Head<'a> {
        Head { method: self.method, path: self.path, query: self.query, headers: self.headers }
    }

    /// All that is done with a request, in its order.
    fn check(&self, by: &Authorization, secret: &str, now: Timestamp) -> Result<(), Unsigned> {
        let (head, secret) = (self.head(), Secret::new(secret));
        by.check_head(self.headers, now)?;
        let proven = by.verify_head(&head, &secret)?;
        assert_eq!(proven, self.headers.contains_key(BODY_HASH));
        by.verify_body(&head, self.body, &secret)
    }
}

fn verify(signature: &str, request: &Signed<'_>, secret: &str, now: Timestamp) -> Result<(), Unsigned> {
    let header = format!("{ALGORITHM} {SIGNED}, Signature={signature}");
    let authorization = Authorization::parse(&header).unwrap();
    assert_eq!(authorization.access_key, "AKEXAMPLE");
    request.check(&authorization, secret, now)
}

fn post<'a>(path: &'a str, headers: &'a HeaderMap, body: &'a str) -> Signed<'a> {
    Signed { method: "POST", path, query: "", headers, body: body.as_bytes() }
}

#[test]
fn what_the_sdk_signed_is_right() {
    let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
    let path = format!("{KMS}/update-key-alias");
    assert_eq!(verify(POST, &post(&path, &json, BODY), "SKEXAMPLE", now()), Ok(()));

    let plain = headers("application/json", "huaweicloud-usdk-python/3.0");
    let path = format!("{KMS}/aliases");
    let query = "key_id=bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e&limit=2&marker=a%2Fb%20c%2B%C3%A9";
    let request = Signed { method: "GET", path: &path, query, headers: &plain, body: b"" };
    assert_eq!(verify(GET, &request, "SKEXAMPLE", now()), Ok(()));

    let accented = headers("application/json", "caf\u{e9}");
    let path = format!("{KMS}/bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e/tags/a%2Fb%20%C3%A9~");
    let request = Signed { method: "DELETE", path: &path, query: "", headers: &accented, body: b"" };
    assert_eq!(verify(DELETE, &request, "SKEXAMPLE", now()), Ok(()));
}

#[test]
fn anything_else_is_wrong() {
    let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
    let path = format!("{KMS}/update-key-alias");
    let request = post(&path, &json, BODY);
    let secret = "SKEXAMPLE";
    assert_eq!(verify(POST, &request, "SKEXAMPLF", now()), Err(Unsigned::Wrong));
    assert_eq!(verify(GET, &request, secret, now()), Err(Unsigned::Wrong));
    assert_eq!(verify("", &request, secret, now()), Err(Unsigned::Wrong));
    assert_eq!(verify(&POST[..62], &request, secret, now()), Err(Unsigned::Wrong));
    assert_eq!(verify(POST, &post(&path, &json, "{}"), secret, now()), Err(Unsigned::Wrong));
    assert_eq!(verify(POST, &post(KMS, &json, BODY), secret, now()), Err(Unsigned::Wrong));
    let other = Signed { query: "x=1", ..post(&path, &json, BODY) };
    assert_eq!(verify(POST, &other, secret, now()), Err(Unsigned::Wrong));
    let mut moved = json.clone();
    moved.insert("host", HeaderValue::from_static("127.0.0.1:8081"));
    assert_eq!(verify(POST, &post(&path, &moved, BODY), secret, now()), Err(Unsigned::Wrong));
}

#[test]
fn a_request_is_accepted_for_fifteen_minutes_in_all() {
    let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
    let path = format!("{KMS}/update-key-alias");
    let request = post(&path, &json, BODY);
    let accepted: Vec<i64> =
        (-2000..2000).filter(|seconds| verify(POST, &request, "SKEXAMPLE", at(*seconds)).is_ok()).collect();
    assert_eq!((accepted[0], accepted.len()), (-60, 15 * 60));
    assert_eq!(verify(POST, &request, "SKEXAMPLE", at(14 * 60)), Err(Unsigned::Old));
    assert_eq!(verify(POST, &request, "SKEXAMPLE", at(-61)), Err(Unsigned::Early));
    let mut undated = json.clone();
    undated.remove(DATE);
    assert_eq!(verify(POST, &post(&path, &undated, BODY), "SKEXAMPLE", now()), Err(Unsigned::Date));
}

fn refused_head(signed: &str, headers: &HeaderMap) -> Option<Unsigned> {
    let header = format!("{ALGORITHM} Access=A, SignedHeaders={signed}, Signature={POST}");
    Authorization::parse(&header).unwrap().check_head(headers, now()).err()
}

#[test]
fn the_date_must_be_signed_and_signed_headers_are_there_once() {
    let json = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
    let mut twice = json.clone();
    twice.append("x-project-id", HeaderValue::from_static("other"));
    assert_eq!(refused_head("x-project-id;x-sdk-date", &twice), Some(Unsigned::Headers));
    for signed in
        ["", "host", "host;x-sdk-date;absent", "host;host;x-sdk-date", "x-sdk-date;X-Sdk-Date", "x-sdk-date;"]
    {
        assert_eq!(refused_head(signed, &json), Some(Unsigned::Headers), "{signed}");
    }
    for signed in ["x-sdk-date", "X-Sdk-Date", "user-agent;x-sdk-date", "x-sdk-date;host"] {
        assert_eq!(refused_head(signed, &json), None, "{signed}");
    }
}

#[test]
fn the_hash_of_the_body_is_checked_before_and_after_it_is_there() {
    let mut hashed = headers("application/json;charset=UTF-8", "huaweicloud-usdk-python/3.0");
    let path = format!("{KMS}/update-key-alias");
    for wrong in ["UNSIGNED-PAYLOAD", "", "00", &"AB".repeat(32)] {
        hashed.insert(BODY_HASH, HeaderValue::from_str(wrong).unwrap());
        assert_eq!(refused_head("x-sdk-date", &hashed), Some(Unsigned::Body), "{wrong}");
    }
    hashed.insert(BODY_HASH, HeaderValue::from_str(&"ab".repeat(32)).unwrap());
    assert_eq!(refused_head("x-sdk-date", &hashed), None);
    // It is not what was signed: that is known at once.
    assert_eq!(verify(POST, &post(&path, &hashed, BODY), "SKEXAMPLE", now()), Err(Unsigned::Wrong));
    let right = HEXLOWER.encode(&Sha256::digest(BODY));
    hashed.insert(BODY_HASH, HeaderValue::from_str(&right).unwrap());
    assert_eq!(verify(POST, &post(&path, &hashed, BODY), "SKEXAMPLE", now()), Ok(()));
    assert_eq!(verify(POST, &post(&path, &hashed, BODY), "SKEXAMPLF", now()), Err(Unsigned::Wrong));
    assert_eq!(verify(POST, &post(&path, &hashed, "{}"), "SKEXAMPLE", now()), Err(Unsigned::Body));
}

/// What a client sends, of what it signs the headers named, and its signatures of three requests.
struct Client {
    headers: &'static [(&'static str, &'static str)],
    signed: &'static str,
    signatures: [&'static str; 3],
}

/// As backend/tests/sdk/signing.py signs. Those of Node.js are what the package
/// `@huaweicloud/huaweicloud-sdk-core` 3.1.211 itself made.
const CLIENTS: [Client; 8] = [
    // Go
    Client {
        headers: &[("user-agent", "huaweicloud-usdk-go/3.0"), JSON_UTF8, ("x-project-id", PROJECT)],
        signed: "user-agent;x-project-id;x-sdk-date",
        signatures: [
            "b9956d224c366170fba478a1beba4f42b2cd875a4db60b9ba6c53b3cf3e1ed38",
            "de18c9262d8e5576e45af23752839170c4b0e9bcf413013f97fd5f7faba3e14f",
            "25df30163c1ad753afa0faec60d7b4a53e810c91c4fd5c4a673d5b6313a981aa",
        ],
    },
    // Go, some years ago
    Client {
        headers: &[("user-agent", "huaweicloud-usdk-go/3.0"), JSON_UTF8, ("x-project-id", PROJECT)],
        signed: "content-type;user-agent;x-project-id;x-sdk-date",
        signatures: [
            "f220a1639705975708e3a0541d84dfd9109c68ecddb2781e022ec9ab7488657e",
            "ccd352e9f7ed87233e6f6d787771e70b22724cf9e7c4fb793350018274c50b2f",
            "81ec902726e9abb6dc283553f121c86ec452af337220f500af3b4d3c079eeae3",
        ],
    },
    // Terraform
    Client {
        headers: &[
            ("user-agent", "terraform-provider-huaweicloud/1.80 golangsdk/2.0.0"),
            ("accept", "application/json"),
            JSON,
        ],
        signed: "accept;content-type;user-agent;x-sdk-date",
        signatures: [
            "a3efea0fef12bd857121cb0f6b9eceed9f9c2c55b660d10e7f061f67946a00ba",
            "6f3f51e003a2ad862449052bbaebfa055d9b715173c860386e1c1c9d59871776",
            "8a0f73aa0d155740a6ac2cd477c2ac7db5b9b66bdcbf20fc4cd2609e5d684875",
        ],
    },
    // Java
    Client {
        headers: &[("user-agent", "huaweicloud-usdk-java/3.0"), JSON_UTF8, ("x-project-id", PROJECT)],
        signed: "content-type;host;user-agent;x-project-id;x-sdk-date",
        signatures: [
            "b12567d2b3bb19c8b3cb34383bcdae1c1c195057aeeae62737ac8c4181589f24",
            "0eb2f9ac4e1f560416c4e863df93ddcd30594ae181e467dbf312767e2710c8ea",
            "c71a58da09e993975f17591f1d7c55576ca90347731100b7d52f0795e08b7e36",
        ],
    },
    // Node.js
    Client {
        headers: &[JSON, ("x-project-id", PROJECT)],
        signed: "content-type;host;x-project-id;x-sdk-date",
        signatures: [
            "448fcac77f6a9104fcb9018f7b9aa399cc417cb6729f5b2cc7ed176fca501ee3",
            "1e396b4e4bff355930806ed8e64e904c5bf001ff00f1363f5ff2131f3fa00fee",
            "af86f32b5e78c079012413128b2a9278593f63aa32595ba52f9d462f85aa35fc",
        ],
    },
    // All that the signing guide demands
    Client {
        headers: &[],
        signed: "x-sdk-date",
        signatures: [
            "ec2f9abc53a2af767cffc0dbb5aeb7e11bc4e09661fc8f8f36f140efadda1386",
            "c44173aa81beb522cd5edc02373064cc7b0f13950592ed773b790c0f6d837557",
            "08bbe45edfc51579f3ad69a82337e943a2bc476aee61641b0ce20b28a6d41f0c",
        ],
    },
    // Capitals in the list
    Client {
        headers: &[JSON],
        signed: "Content-Type;Host;X-Sdk-Date",
        signatures: [
            "384f638ab11b1af72ada0defd58892ec83431a8850a8fe0e7c4763194915b8ae",
            "c0f89fc39c96d5cde1ebcdc70cc85687d696db5d8bed35658b3beb08693a2394",
            "2d603058b20704988c258d9ad0023b9dea245cc220df3fcf5ccfbf1278e03b2d",
        ],
    },
    // Capitals in the list and in the lines
    Client {
        headers: &[JSON],
        signed: "Content-Type;Host;X-Sdk-Date",
        signatures: [
            "2d407af2ef2983040fc10cf14be95783c63c6cc7e23b12c94f7e4e6b40885522",
            "eabffe7f19fc6be247fc90e41f301d4554cc4aad144af335d6184f4336ced7b9",
            "f5ef39aa321b4462a122f6ecfdc255934bcd52f93203f8d11402cdf235d11396",
        ],
    },
];
const JSON: (&str, &str) = ("content-type", "application/json");
const JSON_UTF8: (&str, &str) = ("content-type", "application/json;charset=UTF-8");

#[test]
fn each_client_is_right_by_the_headers_that_it_signs() {
    let compact = BODY.replace(": ", ":").replace(", ", ",");
    for client in &CLIENTS {
        let mut headers: HeaderMap = client
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        headers.insert("x-sdk-date", HeaderValue::from_static("20260101T120000Z"));
        headers.insert("host", HeaderValue::from_static("127.0.0.1:8080"));
        let newline =
            if client.headers.contains(&("user-agent", "huaweicloud-usdk-go/3.0")) { "\n" } else { "" };
        let body = format!("{compact}{newline}");
        let update = format!("{KMS}/update-key-alias");
        let aliases = format!("{KMS}/aliases");
        let tag = format!("{KMS}/bb6a3d22-dc93-47ac-b5bd-88df7ad35f1e/tags/a/b");
        let list = Signed {
            method: "GET",
            path: &aliases,
            query: "marker=a%2Fb%3Ac&limit=2",
            headers: &headers,
            body: b"",
        };
        let delete = Signed { method: "DELETE", path: &tag, query: "", headers: &headers, body: b"" };
        for (request, signature) in
            [post(&update, &headers, &body), list, delete].iter().zip(client.signatures)
        {
            let header =
                format!("{ALGORITHM} Access=A, SignedHeaders={}, Signature={signature}", client.signed);
            let authorization = Authorization::parse(&header).unwrap();
            let verify = |request: &Signed<'_>| request.check(&authorization, "SKEXAMPLE", now());
            assert_eq!(verify(request), Ok(()), "{} {}", client.signed, request.method);
            // Each header that is signed, and none that is not.
            for name in headers.keys() {
                let mut others = headers.clone();
                let value = if name == DATE { "20260101T120001Z" } else { "other" };
                others.insert(name, HeaderValue::from_static(value));
                let signed = client.signed.to_lowercase().split(';').any(|signed| signed == name.as_str());
                let expected = if signed { Err(Unsigned::Wrong) } else { Ok(()) };
                let changed = Signed { headers: &others, ..*request };
                assert_eq!(verify(&changed), expected, "{} {name}", client.signed);
            }
        }
    }
}

#[test]
fn what_is_claimed_is_found_in_malformed_headers() {
    for (header, claimed) in [
        ("SDK-HMAC-SHA256 Access=AK, SignedHeaders=host, Signature=xyz", Some("AK")),
        ("SDK-HMAC-SHA256 SignedHeaders=host, Access=AK", Some("AK")),
        ("SDK-HMAC-SHA256 Access=", Some("")),
        ("Bearer Access=secret", None),
        ("", None),
    ] {
        assert_eq!(Authorization::claimed(header), claimed, "{header}");
    }
}

#[test]
fn other_headers_are_malformed() {
    for wrong in [
        "",
        "Bearer x",
        "SDK-HMAC-SHA256",
        "SDK-HMAC-SHA256 Access=A, SignedHeaders=host",
        "SDK-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=xyz",
        "SDK-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=00, More=1",
        "V11-HMAC-SHA256 Access=A, SignedHeaders=host, Signature=00",
    ] {
        assert_eq!(Authorization::parse(wrong), None, "{wrong}");
    }
}
