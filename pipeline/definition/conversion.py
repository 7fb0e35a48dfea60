"""From the shape of a definition to the model that the rest of the pipeline sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pipeline.base.disk_format import DEFAULT_OUTPUT, known_format
from pipeline.base.surroundings import variables
from pipeline.definition import schema_models, schema_sources, schema_steps
from pipeline.definition.composition import (
    Composed,
)
from pipeline.definition.cross_rules import format_of
from pipeline.definition.destinations import destination
from pipeline.definition.document import spell
from pipeline.definition.model import (
    CmdStep,
    CommandExpectation,
    CopyStep,
    DataDisk,
    DataDiskFile,
    DebianSource,
    Definition,
    DiskSource,
    Expectation,
    FirstBoot,
    Generalize,
    HttpExpectation,
    IsoSource,
    Keep,
    Machine,
    MasterSource,
    MsiStep,
    PlaybookStep,
    Port,
    PowershellStep,
    Refresh,
    ScriptStep,
    SecretSource,
    Source,
    SourceFormat,
    Step,
    Updates,
)
from pipeline.definition.schema_models import Written
from pipeline.definition.system_rules import rules_of
from pipeline.definition.units import GIB

#: What an image gets that says no size, having no source to take it from. Windows Server wants 32 GiB.
_DEFAULT_DISK: dict[type, int] = {schema_sources.FromDebian: 8 * GIB, schema_sources.FromIso: 64 * GIB}


def make_definition(shape: Written, path: Path, project: Path, image: Composed | None = None) -> Definition:
    """The definition of a shape without faults; by default that of a file that is not composed."""
    system = rules_of(shape.os)
    generations = tuple(sorted(shape.generations or system.generations))
    unsaid = _DEFAULT_DISK.get(type(shape.source))
    trusted = generations in system.trusted_boot
    return Definition(
        name=image.name if image else path.stem,
        path=path,
        inherited=tuple(project / file for file in image.files) if image else (),
        parameters={name: value.value for name, value in image.parameters.items()} if image else {},
        variables=dict(value.variable for value in image.parameters.values() if value.variable) if image else {},
        project=project,
        summary=shape.summary or "",
        os=shape.os,
        source=_source(shape.source, project),
        disk=shape.disk or unsaid,
        generations=generations,
        secure_boot=trusted if shape.secure_boot is None else shape.secure_boot,
        secure_boot_keys=tuple(sorted(shape.secure_boot_keys or system.secure_boot_keys)),
        tpm=trusted if shape.tpm is None else shape.tpm,
        locale=shape.locale,
        timezone=shape.timezone,
        machine=_machine(shape.machine, system.memory),
        accelerator=shape.accelerator,
        updates=Updates(shape.updates.only, shape.updates.deadline) if shape.updates else None,
        steps=tuple(_step(step, project, path) for step in shape.steps),
        secrets={name: _secret(part, project) for name, part in shape.secrets.items()},
        generalize=Generalize(
            shape.generalize.agent or system.agent,
            shape.generalize.mode_vm,
            shape.generalize.oobe.skip,
        ),
        waive=dict(shape.waive),
        output=known_format(shape.output) if shape.output else DEFAULT_OUTPUT,
        prove=tuple(shape.prove or (f"gen{generation}" for generation in generations)),
        test_suites=tuple(shape.test_suites),
        keep=Keep(shape.keep.versions, shape.keep.days),
        publish=tuple(shape.publish),
        refresh=Refresh(
            shape.refresh.mode,
            tuple(_step(step, project, path) for step in shape.refresh.steps),
            shape.refresh.cold_days,
        ),
        accounts=tuple(shape.accounts),
        allow=tuple(destination(text) for text in shape.network.allow),
        expect=tuple(_expectation(item) for item in shape.expect),
        first_boot=_first_boot(shape.first_boot, project) if shape.first_boot else None,
        ports=tuple(
            Port(part.port, part.protocol, part.name or f"{part.protocol.upper()} {part.port}")
            for part in shape.ports
        ),
        data_disks=tuple(
            DataDisk(part.lun, part.size, part.caching, part.filesystem, part.label)
            for part in sorted(shape.data_disks, key=lambda part: part.lun)
        ),
    )


def _machine(part: schema_models.MachinePart, memory: int) -> Machine:
    """`memory`: bytes of a guest whose definition does not say."""
    factor = part.timeout_factor if part.patience is None else part.patience
    return Machine(part.cpus, part.memory or memory, factor)


def _secret(part: schema_models.SecretPart, project: Path) -> SecretSource:
    return SecretSource((project / part.file).resolve() if part.file else None, part.env, part.command)


def _first_boot(part: schema_models.FirstBootPart, project: Path) -> FirstBoot:
    return FirstBoot((project / part.apply).resolve(), part.from_, part.deadline, part.sample or "")


def _source(source: object, project: Path) -> Source:
    match source:
        case schema_sources.FromDebian(debian=debian):
            return DebianSource(debian.suite, tuple(debian.packages), debian.check_valid_until)
        case schema_sources.FromDisk(disk=disk):
            where = disk.path or disk.url or ""
            kind = disk.format or format_of(where)
            path = (project / disk.path).resolve() if disk.path else None
            data = tuple(
                DataDiskFile(
                    each.lun, (project / each.path).resolve(), cast(SourceFormat, each.format or format_of(each.path))
                )
                for each in sorted(disk.data_disks, key=lambda each: each.lun)
            )
            return DiskSource(path, disk.url, disk.sha256, cast(SourceFormat, kind), data)
        case schema_sources.FromMaster(master=master):
            image, _, reference = master.partition("@")
            return MasterSource(image, reference or "golden")
        case schema_sources.FromIso(iso=iso, drivers=drivers, edition=edition, product_key=key):
            beside = (project / drivers.path).resolve()
            named = (project / key).resolve() if key not in (None, "kms") else key
            return IsoSource((project / iso.path).resolve(), iso.sha256, beside, drivers.sha256, edition, named)
    raise AssertionError(f"no source: {spell(())}{source!r}")


def _step(step: object, project: Path, definition: Path) -> Step:
    assert isinstance(step, schema_steps.StepPart)
    shared: dict[str, Any] = {
        "name": step.name,
        "network": step.network,
        "timeout": step.timeout,
        "reboots": step.reboot is not None,
        "checkpoint": step.checkpoint,
        "secrets": tuple(getattr(step, "secrets", ())),
    }
    match step:
        case schema_steps.Playbook():
            file = (project / "playbooks" / step.playbook).resolve()
            vault = (project / step.vault_password_file).resolve() if step.vault_password_file else None
            return PlaybookStep(
                file=file,
                playbook=step.playbook,
                vars=dict(step.vars),
                vault_password_file=vault,
                environment={name: variables()[name] for name in step.environment},
                **shared,
            )
        case schema_steps.Script():
            return ScriptStep(file=(project / step.script).resolve(), script=step.script, **shared)
        case schema_steps.Powershell():
            return PowershellStep(file=(project / step.powershell).resolve(), script=step.powershell, **shared)
        case schema_steps.Cmd():
            return CmdStep(file=definition, cmd=step.cmd, **shared)
        case schema_steps.Msi(msi=package):
            file = (project / package.path).resolve()
            return MsiStep(
                file=file, path=package.path, sha256=package.sha256, arguments=tuple(package.arguments), **shared
            )
        case schema_steps.Copy():
            what = step.copy_
            file = (project / what.from_).resolve()
            return CopyStep(file=file, copy_from=what.from_, to=what.to, mode=what.mode, **shared)
    raise AssertionError(f"no step: {step!r}")


def _expectation(item: schema_models.ExpectHttp | schema_models.ExpectCommand) -> Expectation:
    if isinstance(item, schema_models.ExpectCommand):
        return CommandExpectation(item.command)
    return HttpExpectation(item.http.port, item.http.path, item.http.contains or "", item.http.status)
