"""Networks as people bring them: sound ones in odd forms, and ones that cannot be served as they are."""

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from service.engine.network.places.looking import ROWS


class Small(nn.Module):
    """A classifier as tutorials write it."""

    def __init__(self, classes: int = 3, channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, classes)

    def features(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.gap(self.features(x)), 1))

    @classmethod
    def wide(cls, classes: int = 7) -> "Small":
        """Make one by a method of the class, as many libraries do."""
        return cls(classes)


class Fractions(Small):
    """Insists on values 0 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        if not 0 <= float(x.min()) <= float(x.max()) <= 1:
            raise ValueError("values have to lie between 0 and 1")
        return super().forward(x)


def fractions() -> nn.Module:
    return Fractions()


def small(classes: int = 3) -> nn.Module:
    return Small(classes)


class Own(nn.Module):
    """A network whose own attribute is called `module`."""

    def __init__(self) -> None:
        super().__init__()
        self.module = Small()

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


def own() -> nn.Module:
    return Own()


def swa() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(Small())


def parallel() -> nn.Module:
    return nn.DataParallel(Small())


def compiled() -> nn.Module:
    return torch.compile(Small())


class Inside(nn.Module):
    """A network with compiled and parallel parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.DataParallel(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
        self.head = torch.compile(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def inside() -> nn.Module:
    return Inside()


def half() -> nn.Module:
    return Small().half()


def bfloat16() -> nn.Module:
    return Small().bfloat16()


def double() -> nn.Module:
    return Small().double()


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(Small().eval(), {nn.Linear}, dtype=torch.qint8)


class Quantised(nn.Module):
    """Int8 throughout, as static quantisation leaves a network."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.conv = torch.ao.quantization.QuantStub(), nn.Conv2d(3, 4, 3)
        self.relu, self.dequant = nn.ReLU(), torch.ao.quantization.DeQuantStub()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.dequant(self.relu(self.conv(self.quant(x)))).mean((2, 3)))


def static() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = Quantised().eval()
        network.qconfig = torch.ao.quantization.get_default_qconfig("x86")
        network.fc.qconfig = None
        torch.ao.quantization.prepare(network, inplace=True)
        network(torch.randn(4, 3, 32, 32))
        return torch.ao.quantization.convert(network)


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(Small().eval())


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(Small().eval(), torch.rand(2, 3, 32, 32))


def saved(network: Any) -> bytes:
    """Return a TorchScript file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(network, buffer)
    return buffer.getvalue()


def export(batch: str | None = "batch") -> torch.export.ExportedProgram:
    shapes = ({0: torch.export.Dim(batch)},) if batch else None
    return torch.export.export(Small().eval(), (torch.rand(2, 3, 32, 32),), dynamic_shapes=shapes)


def state() -> dict[str, Tensor]:
    return Small().state_dict()


def exported() -> Any:
    return export().module()


def exported_for_two() -> Any:
    return export(None).module()


class NoReturn(Small):
    """`train` forgets to return the module."""

    def train(self, mode: bool = True) -> None:  # type: ignore[override]
        super().train(mode)


def no_return() -> nn.Module:
    return NoReturn()


class Forgets(Small):
    """`train` keeps the batch norms training, whatever it is told."""

    def train(self, mode: bool = True) -> "Forgets":
        super().train(True)
        return self


def forgets() -> nn.Module:
    return Forgets()


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))


def meta() -> nn.Module:
    with torch.device("meta"):
        return Small()


class Extra(Small):
    """Keeps a number beside its tensors."""

    def __init__(self, secret: int = 3) -> None:
        super().__init__()
        self.secret = secret

    def get_extra_state(self) -> Any:
        return {"secret": self.secret, "names": ["a", "b"]}

    def set_extra_state(self, state: Any) -> None:
        self.secret = state["secret"]


def extra(secret: int = 3) -> nn.Module:
    return Extra(secret)


class Doubled(Small):
    """The same weights, and another forward."""

    def forward(self, x: Tensor) -> Tensor:
        return 8 * super().forward(x)


def doubled() -> nn.Module:
    return Doubled()


# What cannot be served as it is


def grey() -> nn.Module:
    return Small(channels=1)


def four() -> nn.Module:
    return Small(channels=4)


def six() -> nn.Module:
    return Small(channels=6)


class Sized(Small):
    """Takes 96 pixels only."""

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == 96, "expected 96 pixels"
        return super().forward(x)


def sized() -> nn.Module:
    return Sized()


class Digits(nn.Module):
    """Grey, 28 pixels, as the first network of most people."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 26 * 26, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).relu().flatten(1))


def digits() -> nn.Module:
    return Digits()


class Squeezes(Small):
    """Loses the axis of a batch of one."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.gap(self.features(x)).squeeze()
        assert y.ndim == 2
        return self.fc(y)


def squeezes() -> nn.Module:
    return Squeezes()


class Two(Small):
    """Takes a picture and an age."""

    def forward(self, x: Tensor, age: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x) + age


def two() -> nn.Module:
    return Two()


class Last(Small):
    """Takes channels last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 3, 1, 2))


def last() -> nn.Module:
    return Last()


class Film(nn.Module):
    """Takes five axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv3d(3, 4, (1, 3, 3)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 5:
            raise ValueError("expected 5 axes")
        return self.fc(self.conv(x).mean((2, 3, 4)))


def film() -> nn.Module:
    return Film()


class CastsBack(Small):
    """Casts to the type that its weights, or some of them, were made in."""

    def __init__(self, dtype: torch.dtype, *, part: bool) -> None:
        super().__init__()
        self.dtype, self.part = dtype, part
        (self.fc if part else self).to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        if not self.part:
            x = x.to(self.dtype)
        return self.fc(self.gap(self.features(x)).flatten(1).to(self.dtype))


def casts_to_double() -> nn.Module:
    return CastsBack(torch.float64, part=False)


def casts_to_bfloat16() -> nn.Module:
    return CastsBack(torch.bfloat16, part=False)


def casts_to_half_for_its_head() -> nn.Module:
    return CastsBack(torch.float16, part=True)


class Casts(Small):
    """Computes in half precision whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.float16, "feed me half"
        return super().forward(x.float())


def casts() -> nn.Module:
    return Casts()


class DoubleMean(Small):
    """Takes off a mean that NumPy has made."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = torch.zeros(3, 1, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - self.mean)


def double_mean() -> nn.Module:
    return DoubleMean()


class Writes(Small):
    """Writes into its input."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2)
        return super().forward(x)


def writes() -> nn.Module:
    return Writes()


class Raises(Small):
    """Has a mistake."""

    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("a mistake of its author")


def raises_in_forward() -> nn.Module:
    return Raises()


def raises() -> nn.Module:
    raise RuntimeError("no such thing")


class Bag:
    """Holds a network, as pipelines do."""

    def __init__(self) -> None:
        self.model = Small()


def bag() -> Bag:
    return Bag()


def prints() -> nn.Module:
    print("printed by the factory")
    return Small()


class Changed(Small):
    """One that takes its pictures in another way, `how`."""

    def __init__(self, how: Callable[..., Tensor]) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: Any) -> Tensor:
        return super().forward(self.how(x))


def in_a_dict() -> nn.Module:
    return Changed(lambda batch: batch["image"])


def in_a_list() -> nn.Module:
    def stacked(pictures: Any) -> Tensor:
        if not isinstance(pictures, list):
            raise TypeError("a list of pictures is taken")
        return torch.stack(pictures)

    return Changed(stacked)


def on_its_own_device() -> nn.Module:
    def moved(x: Tensor) -> Tensor:
        raise RuntimeError("Found no NVIDIA driver on your system.")  # as x.cuda() says where there is none

    return Changed(moved)


class ByName(Small):
    """One whose forward has to be told the name of what it is given."""

    def forward(self, *, image: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(image)


def by_name() -> nn.Module:
    return ByName()


class AtOnce(Small):
    """One that takes so many pictures, and no other number."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.gap(self.features(x)).view(self.count, 16))


def four_at_once() -> nn.Module:
    return AtOnce(4)


def as_many_as_at_load() -> nn.Module:
    return AtOnce(ROWS + 1)  # another picture beside those that tell where cells look


def four_traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(AtOnce(4).eval(), torch.rand(4, 3, 32, 32))


class WithAge(nn.Module):
    """Two inputs, written for TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) + age


def two_scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(WithAge().eval())


class Flat(nn.Module):
    """Digits as tutorials take them: as many rows as there are 784 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(784, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x.view(-1, 784)).relu())


def flat() -> nn.Module:
    return Flat()


class Whole(Small):
    """One that decides, and tells no scores."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).argmax(1)


def whole() -> nn.Module:
    return Whole()
