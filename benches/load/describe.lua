-- What wrk sends: describe-key by alias, with a token.
wrk.method = "POST"
wrk.headers["X-Auth-Token"] = "TOKENEXAMPLE"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"key_id":"alias/kms-1234"}'
