"""What is done to a whole file in memory: bytes, JSON, headers, cards, arrays; digests are right again."""

import hashlib
import io
import json
import struct

import numpy as np
from safetensors.numpy import load, save

from esort.checkpoint import weights_digest
from esort.manifest import digest_of

NASTY = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**400, -(10**18), 0.5, 1e-300, 1e300),
    *("", "x", "\x00", "ß" * 1000, "../../etc/passwd", "__import__"),
    *([], {}, [[]], [None], {"": None}, ["a", 1], {"_target_": "os.system"}),
]


def mutated(content, rng):
    """A few bytes changed, cut out, doubled or put in; the first bytes, which say sizes, more often."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        if not content:
            break
        where = int(rng.integers(0, min(len(content), 16 if rng.random() < 0.2 else len(content))))
        length = int(rng.integers(1, 17))
        match rng.integers(0, 5):
            case 0:
                content[where] ^= 1 << int(rng.integers(0, 8))
            case 1:
                content[where : where + length] = rng.bytes(length)
            case 2:
                del content[where : where + length]
            case 3:
                content[where:where] = content[where : where + length]
            case 4:
                del content[where:]
    return bytes(content)


def places(value, path=()):
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in list(children)[:6]:
        yield from places(child, (*path, key))


def change_one(content, rng):
    """Put something else into one place, or take it out."""
    where = list(places(content))[1:]
    path = where[rng.integers(0, len(where))]
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    if rng.random() < 0.1:
        del holder[path[-1]]
        return
    value = NASTY[rng.integers(0, len(NASTY))]
    if rng.random() < 0.3 and isinstance(holder[path[-1]], (int, float)):
        value = holder[path[-1]] * int(rng.integers(-2, 10**6))
    holder[path[-1]] = value


def changed_json(content, rng):
    content = json.loads(content)
    change_one(content, rng)
    return json.dumps(content).encode()


def bytes_or_json(content, rng):
    return (mutated if rng.random() < 0.5 else changed_json)(content, rng)


def parts_of(whole):
    """Header and data of a safetensors file."""
    (length,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + length]), whole[8 + length :]


def put_together(header, data):
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    return struct.pack("<Q", len(content)) + content + data


def another_header(whole, rng):
    """A safetensors header with one other value, of the right length."""
    header, data = parts_of(whole)
    change_one(header, rng)
    return put_together(header, data)


def with_card(whole, change):
    """A file with another card, whose digests are right: all that is left to refuse it is what it says."""
    header, data = parts_of(whole)
    card = json.loads(header["__metadata__"]["esort"])
    card.pop("card_digest")
    change(card)
    digest = hashlib.sha256(json.dumps(card, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    header["__metadata__"]["esort"] = json.dumps(card | {"card_digest": digest})
    return put_together(header, data)


def another_card(whole, rng):
    return with_card(whole, lambda card: change_one(card, rng))


def changed_array(array, rng):
    """An array of another shape, type or content."""
    match rng.integers(0, 6):
        case 0:
            return array[: array.shape[0] // 2] if array.ndim else array[None]
        case 1:
            return array.astype(("f2", "f4", "f8", "i1", "i8", "u4", "?")[rng.integers(0, 7)])
        case 2:
            return np.stack([array, array])
        case 3:
            return np.zeros((0, *array.shape[1:]), dtype=array.dtype)
        case 4:
            return np.full(array.shape, (-1, 0, 1, 100, 2**30)[rng.integers(0, 5)]).astype(array.dtype)
        case _:
            array = np.array(array)
            values = (np.nan, np.inf, -1e30, 1e30) if array.dtype.kind == "f" else (-1, 0, 1, 120)
            if array.size:
                value = np.array(values[rng.integers(0, 4)]).astype(array.dtype)
                array.reshape(-1)[rng.integers(0, array.size)] = value
            return array


def other_weights(whole, rng):
    """A checkpoint one of whose arrays is another, with right digests."""
    weights = load(whole)
    name = sorted(weights)[rng.integers(0, len(weights))]
    with np.errstate(all="ignore"):
        weights[name] = np.ascontiguousarray(changed_array(weights[name], rng))
    if rng.random() < 0.1:
        weights[name + "x"] = weights.pop(name)
    text = parts_of(whole)[0]["__metadata__"]["esort"]
    made = save(weights, metadata={"esort": text})
    return with_card(made, lambda card: card.update(weights_digest=weights_digest(weights)))


def arrays_of(content):
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def other_arrays(content, rng):
    """An .npz file one of whose arrays is another or missing."""
    arrays = arrays_of(content)
    name = sorted(arrays)[rng.integers(0, len(arrays))]
    array = arrays.pop(name)
    if rng.random() < 0.9:
        with np.errstate(all="ignore"):
            arrays[name] = changed_array(array, rng)
    return npz(arrays)


def bytes_or_arrays(content, rng):
    return (mutated if rng.random() < 0.6 else other_arrays)(content, rng)


def npz(arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def another_manifest(whole, rng):
    content = json.loads(whole)
    content.pop("manifest_sha256")
    change_one(content, rng)
    return json.dumps(content | {"manifest_sha256": digest_of(content)}).encode()
