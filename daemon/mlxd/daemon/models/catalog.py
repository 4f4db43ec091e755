"""The models of this machine: built-in, configured, in folders, and in the Hugging Face cache.

It reads files only, and reads them again when they change, so that new downloads are found.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlxd.daemon.config import Config, ModelConfig
from mlxd.daemon.models import cache, names
from mlxd.daemon.models.files import identity
from mlxd.daemon.models.folder import BrokenFolder, check_folder, describe
from mlxd.daemon.models.other_tools import gguf_refusal
from mlxd.daemon.models.records import LoadedAs, ModelRecord, ModelRef
from mlxd.protocol.errors import InvalidParams, ModelLoadFailed, ModelNotFound, PermissionDenied

__all__ = ["BUILTIN_DIR", "BUILTIN_NAME", "Catalog", "ModelRecord", "ModelRef"]

BUILTIN_NAME = "pocket"
BUILTIN_DIR = Path(__file__).with_name(BUILTIN_NAME)
PARTIAL = ".partial"
"""Suffix of a folder's name while a conversion writes it."""
TELLING_FILES = ("config.json", "model.safetensors.index.json")
"""Files whose contents matter. The folder's modification time covers only their names."""
_DEPTH = 2  # model_dirs may hold NAME/ or, as other tools do, ORG/NAME/


@dataclass(frozen=True, slots=True)
class _Found:
    """The folder where a model is, or should be."""

    name: str
    path: Path
    source: str
    revision: str | None = None
    settings: ModelConfig = field(default_factory=ModelConfig)


Asked = tuple[str | None, str | None, str | None, bool]
Stamps = dict[str, tuple[int, int, int] | None]
KNOWN_MAX = 256
"""Limit of remembered names, because a caller may send any number of them."""


def stamps(paths: tuple[str, ...]) -> Stamps:
    """Return inode, modification time and size of each path, to detect changes."""
    out: Stamps = {}
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            out[path] = None
        else:
            out[path] = (status.st_ino, status.st_mtime_ns, status.st_size)
    return out


def _telling(folder: Path, cache_dir: Path) -> list[Path]:
    """Return the files and folders that change when a model's folder does."""
    places = [folder, folder.parent, *(folder / name for name in TELLING_FILES)]
    if cache_dir in folder.parents:
        places.append(folder.parents[1] / "refs" / "main")
    return places


class Catalog:
    """Finds models by name, for one configuration and environment."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str] | None = None,
        *,
        own_dir: Path | None = None,
        builtin_dir: Path = BUILTIN_DIR,
    ) -> None:
        """`own_dir` is where mlxd writes converted models. It is searched like `model_dirs`."""
        self._config = config
        self._own_dir = own_dir
        env = config.process_environment(os.environ if environ is None else environ)
        self._cache_dir = cache.hub_cache_dir(env)
        self._builtin_dir = builtin_dir
        self._known: dict[Asked, tuple[ModelRef, Stamps]] = {}

    @property
    def cache_dir(self) -> Path:
        """The folder of the Hugging Face cache."""
        return self._cache_dir

    def known(
        self,
        name: str | None = None,
        *,
        adapter: str | None = None,
        draft: str | None = None,
        trust_remote_code: bool = False,
    ) -> ModelRef | None:
        """Return the last result of `resolve` for these arguments, or None if files have changed.

        Reads no file, so the event loop may call it.
        """
        found = self._known.get((name, adapter, draft, trust_remote_code))
        if found is None or found[1] != stamps(tuple(found[1])):
            return None
        return found[0]

    def resolve(
        self,
        name: str | None = None,
        *,
        adapter: str | None = None,
        draft: str | None = None,
        trust_remote_code: bool = False,
    ) -> ModelRef:
        """Return the model that `name` means; None is the default model.

        `adapter` (a folder, or a configured model's name) and `draft` (a model's name) override the
        configured ones.

        Raises:
            ModelNotFound: no model or several have that name. `data.nearest` lists names.
            ModelLoadFailed: its folder is not a complete MLX model.
            PermissionDenied: `trust_remote_code` is requested but not configured.
        """
        asked = (name, adapter, draft, trust_remote_code)
        found = self._find(name or self._config.default_model)
        self._check(found)
        settings = found.settings
        if trust_remote_code and not settings.trust_remote_code:
            raise _code_not_allowed(found.name)
        small = self._draft(draft or settings.draft)
        ref = ModelRef(
            name=found.name,
            path=identity(found.path),
            revision=found.revision,
            trust_remote_code=settings.trust_remote_code,
            keep_alive_s=settings.keep_alive_s,
            pin=settings.pin,
            adapter=self._adapter(adapter or settings.adapter),
            draft=None if small is None else identity(small.path),
            draft_name=None if small is None else small.name,
        )
        self._keep(asked, ref, [one.path for one in (found, small) if one is not None])
        return ref

    def loaded_as(self, name: str | None, loaded: Mapping[str, str]) -> LoadedAs:
        """Return the identifiers under which the engine may know the model `name`.

        Its files may be missing.

        `loaded` maps the names of the loaded models to their folders.

        Raises:
            ModelNotFound: it is neither a loaded model nor one on this machine.
        """
        target = self._unalias(name or self._config.default_model)
        try:
            found = self._find(target)
        except ModelNotFound:
            folder = identity(target)
            candidates = [one for one in loaded if one == target or loaded[one] == folder]
            candidates = candidates or names.matches(target, loaded)
            if len(candidates) != 1:
                raise
            return LoadedAs(candidates[0], loaded[candidates[0]])
        adapter = found.settings.adapter
        return LoadedAs(found.name, identity(found.path), adapter and identity(adapter))

    def _keep(self, asked: Asked, ref: ModelRef, found: Sequence[Path]) -> None:
        roots = [Path(root).expanduser() for root in self._config.model_dirs]
        own = [self._own_dir] if self._own_dir else []
        places = [self._cache_dir, *roots, *own]
        # The path may be a link, whose target may change.
        for path in found:
            places += [path, path.parent]
        for real in (ref.path, ref.draft):
            if real is not None:
                places += _telling(Path(real), Path(identity(self._cache_dir)))
        if ref.adapter is not None:
            places.append(Path(ref.adapter, "adapter_config.json"))
        if len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[asked] = (ref, stamps(tuple(str(place) for place in places)))

    def list(self) -> list[ModelRecord]:
        """Return every model of this machine once."""
        records: dict[str, ModelRecord] = {}
        for found in self._all():
            record = describe(found.name, found.path, found.source, found.revision)
            records.setdefault(os.path.realpath(record.path), record)
        return [*records.values()]

    def show(self, name: str | None = None) -> ModelRecord:
        """Return the record of one model, complete or not. Raises ModelNotFound."""
        found = self._find(name or self._config.default_model)
        return describe(found.name, found.path, found.source, found.revision)

    def hub_target(self, name: str) -> tuple[str, str | None]:
        """Return the Hugging Face id that `name` means, and its configured revision, if any.

        Raises:
            InvalidParams: it is a folder, or not in the form of an id.
        """
        target = self._unalias(name)
        settings = self._config.models.get(target, ModelConfig(name=target))
        repo = settings.repo or target
        if settings.path or repo == BUILTIN_NAME or not cache.is_repo_name(repo):
            raise InvalidParams(
                "model", f"{name!r} is not a Hugging Face id",
                hint="Give ORG/NAME, for instance mlx-community/Qwen3-0.6B-4bit.",
            )  # fmt: skip
        return repo, settings.revision

    def removable(self, name: str) -> tuple[str, Path]:
        """Return the name of a model that mlxd may delete, and the path to delete.

        Raises:
            ModelNotFound: nothing has that name.
            PermissionDenied: it is built in, or in one of the user's folders.
        """
        found = self._find(name)
        place = found.path
        if found.source == "config" and not found.settings.path:
            found = self._cached(found.settings.repo or found.settings.name) or found
        if found.source == "cache":
            return found.name, cache.repo_folder(self._cache_dir, found.name)
        if self._own_dir is not None and (place.parent == self._own_dir or self._imported(place)):
            return found.name, place
        kind = "built in" if found.source == "builtin" else f"in the folder {place}"
        raise PermissionDenied(
            f"{found.name} is {kind} and cannot be removed.",
            hint="Only downloaded and converted models can be removed: mlx models list",
        )

    def _imported(self, place: Path) -> bool:
        """Return whether `models import` created this link."""
        return self._own_dir is not None and place.is_symlink() and self._own_dir in place.parents

    def names(self) -> Sequence[str]:
        """Return every exact name that `resolve` accepts, aliases first."""
        everything = [*self._config.aliases, *(found.name for found in self._all())]
        return [*dict.fromkeys(everything)]

    def _find(self, name: str) -> _Found:
        target = self._unalias(name)
        if (found := self._exact(target)) is not None:
            return found
        candidates = names.matches(target, self.names())
        if len(candidates) == 1:
            found = self._exact(self._unalias(candidates[0]))
            if found is not None:
                return found
            candidates = []
        raise self._not_found(name, target, candidates)

    def _unalias(self, name: str) -> str:
        while name in self._config.aliases:  # loops were refused when the file was read
            name = self._config.aliases[name]
        return name

    def _exact(self, name: str) -> _Found | None:
        if (settings := self._config.models.get(name)) is not None:
            return self._configured(settings)
        if name == BUILTIN_NAME:
            return _Found(BUILTIN_NAME, self._builtin_dir, "builtin")
        if _looks_like_path(name):
            return _folder(name)
        return self._in_dirs(name) or self._cached(name) or self._relative(name)

    def _configured(self, settings: ModelConfig) -> _Found | None:
        if settings.path:
            return _Found(settings.name, Path(settings.path), "config", None, settings)
        target = settings.repo or settings.name
        if target == BUILTIN_NAME:
            return _Found(settings.name, self._builtin_dir, "builtin", None, settings)
        found = (
            _folder(target)
            if _looks_like_path(target)
            else self._in_dirs(target) or self._cached(target, settings.revision)
        )
        if found is None:
            raise ModelNotFound(
                f"The configured model {settings.name!r} ({target}) is not on this machine.",
                hint=f"Get it: mlx models pull {target}",
                data={"nearest": []},
            )
        return _Found(settings.name, found.path, "config", found.revision, settings)

    def _in_dirs(self, name: str) -> _Found | None:
        return next((found for found in self._dir_models() if found.name == name), None)

    def _cached(self, name: str, revision: str | None = None) -> _Found | None:
        repo = cache.find_repo(self._cache_dir, name, revision)
        if repo is None:
            return None
        return _Found(repo.name, repo.snapshot or repo.folder, "cache", repo.revision)

    def _relative(self, name: str) -> _Found | None:
        is_model = os.path.isfile(os.path.join(name, "config.json"))
        return _folder(name) if is_model else None

    def _all(self) -> Iterator[_Found]:
        yield _Found(BUILTIN_NAME, self._builtin_dir, "builtin")
        for settings in self._config.models.values():
            try:
                found = self._configured(settings)
            except ModelNotFound:
                continue
            if found is not None:
                yield found
        yield from self._dir_models()
        for name in cache.repo_names(self._cache_dir):
            found = self._cached(name)
            if found is not None:
                yield found

    def _dir_models(self) -> Iterator[_Found]:
        roots = [Path(os.path.expanduser(root)) for root in self._config.model_dirs]
        for base in [*roots, *([self._own_dir] if self._own_dir else [])]:
            for path in _model_folders(base, _DEPTH):
                source = "imported" if self._imported(path) else "folder"
                yield _Found(path.relative_to(base).as_posix(), path, source)

    def _check(self, found: _Found) -> None:
        try:
            check_folder(found.path)
        except BrokenFolder as exc:
            raise ModelLoadFailed(
                f"The model {found.name} cannot be loaded: {exc.problem}.",
                hint=_remedy(exc.remedy, found),
                data={"model": found.name, "path": str(found.path)},
            ) from exc

    def _adapter(self, adapter: str | None) -> str | None:
        if adapter is None:
            return None
        configured = self._config.models.get(adapter)
        chosen = (configured.adapter if configured else None) or adapter
        path = Path(os.path.expanduser(chosen))
        if not os.path.isfile(path / "adapter_config.json"):
            raise ModelNotFound(
                f"There is no adapter {adapter!r}: {path} has no adapter_config.json.",
                hint="Give the folder that mlx_lm.lora wrote.",
                data={"nearest": []},
            )
        return identity(path)

    def _draft(self, draft: str | None) -> _Found | None:
        if draft is None:
            return None
        found = self._find(draft)
        self._check(found)
        return found

    def _not_found(self, name: str, target: str, candidates: Sequence[str]) -> ModelNotFound:
        if candidates:
            return ModelNotFound(
                f"{name!r} may mean several models: {', '.join(candidates)}.",
                hint=f"Write more of the name, or set an alias: mlx models alias {name} NAME",
                data={"nearest": [*candidates]},
            )
        near = names.nearest(target, self.names())
        if near:
            hint = f"Did you mean {' or '.join(near)}? See all: mlx models list"
        elif cache.is_repo_name(target) and "/" in target:
            hint = f"Get it: mlx models pull {target}"
        else:
            hint = ""
        shown = name if len(name) < 200 else f"{name[:200]}…"
        return ModelNotFound(
            f"There is no model {shown!r} here.", hint=hint, data={"nearest": near}
        )


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", "~", "./", "../")) or name in (".", "..")


def _folder(name: str) -> _Found:
    # os.path returns False for names that no file system accepts, but pathlib raises.
    path = identity(name)
    if (refusal := gguf_refusal(Path(path))) is not None:
        raise refusal
    if not os.path.isdir(path):
        raise ModelNotFound(
            f"There is no folder {path}.",
            hint="Check the path, or name a model: mlx models list",
            data={"nearest": []},
        )
    return _Found(path, Path(path), "folder")


def _model_folders(base: Path, depth: int) -> Iterator[Path]:
    try:
        folders = sorted(path for path in base.iterdir() if path.is_dir())
    except OSError:
        return
    for path in folders:
        if path.name.endswith(PARTIAL) or not _sayable(path.name):
            continue
        if (path / "config.json").is_file():
            yield path
        elif depth > 1:
            yield from _model_folders(path, depth - 1)


def _sayable(name: str) -> bool:
    """Return whether a file name is valid text, which clients can receive and send."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _remedy(remedy: str, found: _Found) -> str:
    if found.source == "builtin":
        return "The installation is incomplete. Install mlxd again."
    if remedy == "convert":
        return (
            "MLX loads safetensors only: get the model in that format (mlx models pull ORG/NAME)."
        )
    if found.source == "cache":
        return f"Download the rest: mlx models pull {found.name}"
    return f"Check the folder {found.path}, or download the model again."


def _code_not_allowed(name: str) -> PermissionDenied:
    return PermissionDenied(
        f"The configuration does not allow {name} to run its own code.",
        hint=f'If you trust it, write into config.toml: [models."{name}"] trust_remote_code = true',
        data={"model": name},
    )
