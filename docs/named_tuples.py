"""For mkdocstrings: a NamedTuple's fields are its arguments, as a dataclass's are."""

import griffe

KIND = griffe.ParameterKind.positional_or_keyword


class NamedTuples(griffe.Extension):
    """Give every NamedTuple the constructor that Python gives it."""

    def on_class_members(self, *, cls: griffe.Class, **_: object) -> None:
        """Make it of the annotated fields, in order."""
        if "NamedTuple" not in map(str, cls.bases) or "__init__" in cls.members:
            return
        fields = [
            griffe.Parameter(name, annotation=field.annotation, kind=KIND, default=field.value)
            for name, field in cls.attributes.items()
            if field.annotation is not None
        ]
        own = griffe.Parameters(griffe.Parameter("self", kind=KIND), *fields)
        cls.set_member("__init__", griffe.Function("__init__", parameters=own, parent=cls))
