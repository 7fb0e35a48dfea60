"""The definition language: YAML to a frozen typed model; every fault at once, as file:line:column: key: what (hint).

document    the text: YAML with the place of everything in it
types       what a single value may be
schema_models  the shape: which keys there are; the JSON schema comes from it (with schema_sources, schema_steps)
conversion  from the shape to the model
error_messages  the shape's errors in the user's words
destinations  where a guest may go
cross_rules   what one key asks of another
reading     the files of a project, one document each
merging     a document laid over another
parameters  what `${name}` stands for
matrix      several images of one file
composition defaults.yaml, extends, parameters and matrix put together: the documents of images
load        from a file to a Definition, and the order of building
sound_part  what can be read of a definition that has faults
model       what the rest of the pipeline sees
step_digest  what goes into a step, by content
"""

from pipeline.base.project import definition_files, find_project
from pipeline.definition.composition import Composed, compose, image_names, provenance
from pipeline.definition.destinations import NEVER, Destination, destination
from pipeline.definition.diagnostics import DefinitionError, Fault
from pipeline.definition.load import (
    build_order,
    find_definition,
    load,
    load_all,
    load_composed,
    load_file,
    load_named,
    project_faults,
    read_places,
    require_known_settings,
)
from pipeline.definition.model import (
    TARGET_GENERATION,
    USER_DATA,
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
    Step,
    Updates,
)
from pipeline.definition.schema import json_schema
from pipeline.definition.sound_part import SoundPart, load_sound_part
from pipeline.definition.step_digest import step_inputs

__all__ = [
    "NEVER",
    "TARGET_GENERATION",
    "USER_DATA",
    "CmdStep",
    "CommandExpectation",
    "Composed",
    "CopyStep",
    "DataDisk",
    "DataDiskFile",
    "DebianSource",
    "Definition",
    "DefinitionError",
    "Destination",
    "DiskSource",
    "Expectation",
    "Fault",
    "FirstBoot",
    "Generalize",
    "HttpExpectation",
    "IsoSource",
    "Keep",
    "Machine",
    "MasterSource",
    "MsiStep",
    "PlaybookStep",
    "Port",
    "PowershellStep",
    "Refresh",
    "ScriptStep",
    "SecretSource",
    "SoundPart",
    "Source",
    "Step",
    "Updates",
    "build_order",
    "compose",
    "definition_files",
    "destination",
    "find_definition",
    "find_project",
    "image_names",
    "json_schema",
    "load",
    "load_all",
    "load_composed",
    "load_file",
    "load_named",
    "load_sound_part",
    "project_faults",
    "provenance",
    "read_places",
    "require_known_settings",
    "step_inputs",
]
