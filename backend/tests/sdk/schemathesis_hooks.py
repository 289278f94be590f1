"""What schemathesis can't know: the caller's project, keys and aliases that are there.

It calls these with what it made up. Only what has the right form is replaced, by something of the right
form, so that what was meant to be wrong stays wrong.
"""

import os
import re
import zlib

import schemathesis

PROJECT = os.environ["KEYSTEAD_PROJECT"]
KEYS = os.environ["KEYSTEAD_KEYS"].split(",")
ALIASES = os.environ["KEYSTEAD_ALIASES"].split(",")
KEY_ID = re.compile(r"[0-9a-z]{8}(-[0-9a-z]{4}){3}-[0-9a-z]{12}", re.ASCII)
ALIAS = re.compile(r"[a-zA-Z0-9:/_-]{1,255}", re.ASCII)


def known(value, form, those):
    """One of those that are there, or for one in so many the value as it is."""
    if not isinstance(value, str) or not form.fullmatch(value):
        return value
    return [*those, value][zlib.crc32(value.encode()) % (len(those) + 1)]


def replaced(values):
    if not isinstance(values, dict):
        return values
    for name in values:
        if name in ("key_id", "target_key_id"):
            values[name] = known(values[name], KEY_ID, KEYS)
        elif name in ("alias", "marker"):
            values[name] = known(values[name], ALIAS, ALIASES)
        elif name == "aliases" and isinstance(values[name], list):
            values[name] = [known(value, ALIAS, ALIASES) for value in values[name]]
    return values


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if isinstance(path_parameters, dict) and "project_id" in path_parameters:
        path_parameters["project_id"] = PROJECT
    return replaced(path_parameters)


@schemathesis.hook
def map_query(context, query):
    return replaced(query)


@schemathesis.hook
def map_body(context, body):
    return replaced(body)
