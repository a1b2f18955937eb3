import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as reparametrise

from cops import Mask, combine, prune
from cops.export import to_onnx, to_semi_structured, to_torch_prune
from cops.network import prunable, rows
from tests.cops.networks import Residual, Tied, convnet, images, unchanged


def pruned(model: nn.Module, sparsity: float = 0.7) -> Mask:
    return prune(model, [], target="magnitude", sparsity=sparsity).mask


@pytest.mark.parametrize("build", [convnet, Residual, Tied])
def test_torch_prune_computes_what_the_pruned_network_computes(build: Any) -> None:
    torch.manual_seed(0)
    model = build().double().eval()
    inputs = torch.randn(3, *((4,) if build is Tied else (2, 6, 6)), dtype=torch.float64)
    mask = pruned(model)
    expected = mask.apply(copy.deepcopy(model))(inputs)
    assert to_torch_prune(model, mask) is model
    torch.testing.assert_close(model(inputs), expected)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(inputs).square().sum().backward()
    optimiser.step()
    trained = model(inputs)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert reparametrise.is_pruned(module)
            reparametrise.remove(module, "weight")
    torch.testing.assert_close(model(inputs), trained)
    assert not torch.equal(trained, expected)
    assert all(not prunable(model)[name][~kept].any() for name, kept in mask.kept.items() if name in prunable(model))


def test_onnx_runs_to_the_same_outputs_for_any_batch(tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model = convnet().float().train()
    mask = pruned(model)
    path = tmp_path / "network.onnx"
    with unchanged(model):
        to_onnx(model, mask, images(2, 2, 8, 8)[0].float(), path)
    assert list(tmp_path.iterdir()) == [path]
    session = onnxruntime.InferenceSession(path)
    inputs = images(7, 2, 8, 8, seed=1)[0].float()
    (outputs,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    with torch.no_grad():
        expected = mask.apply(copy.deepcopy(model)).eval()(inputs)
    torch.testing.assert_close(torch.from_numpy(outputs), expected, rtol=1e-4, atol=1e-5)
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    assert sum(int((values != 0).sum()) for values in stored if values.ndim >= 2) == mask.count


def test_onnx_without_its_packages_or_with_a_wrong_example_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = convnet()
    mask = pruned(model)
    with pytest.raises(ValueError, match="for another network"):
        to_onnx(Residual(), mask, torch.zeros(1, 2, 6, 6), tmp_path / "a")
    with unchanged(model), pytest.raises(ValueError, match=r"cannot take the example, inputs \(1, 3, 8, 8\)"):
        to_onnx(model, mask, torch.zeros(1, 3, 8, 8).double(), tmp_path / "a")
    monkeypatch.setattr("cops.export.find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(ImportError, match=r"need onnx: pip install 'cops-sweep\[export\]'"):
        to_onnx(model, mask, torch.zeros(1, 2, 8, 8), tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_torch_prune_of_another_network_changes_nothing() -> None:
    model, mask = Residual(), pruned(convnet())
    with unchanged(model), pytest.raises(ValueError, match="for another network"):
        to_torch_prune(model, mask)


def two_of_four(model: nn.Module) -> Mask:
    return prune(model, [], target="magnitude", sparsity=0.5, layout="2:4").mask


def test_a_mask_of_layout_2_4_is_what_sparse_tensor_cores_take() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(128, 64))
    mask = two_of_four(model)
    for (name, kept), layer in zip(mask.kept.items(), (model[0], model[2]), strict=True):
        assert isinstance(layer, nn.Conv2d | nn.Linear), name
        assert (rows(kept, layer).unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_semi_structured_needs_a_2_4_mask_and_a_cuda_device() -> None:
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 30), nn.Linear(30, 4))
    with unchanged(model), pytest.raises(ValueError, match=r"mask of '0.weight' keeps more than 2 of 4.*layout='2:4'"):
        to_semi_structured(model, pruned(model))
    with unchanged(model), pytest.raises(ValueError, match=r"'3.weight' keeps more than 2 of 4"):
        to_semi_structured(model, Mask({"3.weight": torch.zeros(4, 30, dtype=torch.bool)}))  # 30 inputs
    scores = {"a": {"0.weight": model.get_parameter("0.weight").detach().abs()}}
    mask = combine(scores, target="a", sparsity=0.5, layout="2:4", model=model).mask
    with unchanged(model), pytest.raises(ValueError, match=r"'0.weight' is on cpu: sparse tensor cores"):
        to_semi_structured(model, mask)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="sparse tensor cores are on CUDA devices only")
def test_semi_structured_computes_what_the_pruned_network_computes() -> None:
    model = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64)).half().cuda().eval()
    mask = two_of_four(model)
    inputs = torch.randn(64, 128, device="cuda", dtype=torch.half)
    with torch.no_grad():
        expected = mask.apply(copy.deepcopy(model))(inputs)
        outputs = to_semi_structured(model, mask)(inputs)
    torch.testing.assert_close(outputs, expected, rtol=1e-2, atol=1e-2)
