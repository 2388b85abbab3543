"""What Triton's stub gives the encoded backend: a stand-in that answers inner requests and keeps metrics."""

from types import ModuleType, SimpleNamespace


class Tensor:
    def __init__(self, name, array):
        self._name, self.array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self.array


class TritonError:
    INVALID_ARG, UNAVAILABLE, NOT_FOUND, INTERNAL, CANCELLED = range(5)

    def __init__(self, text, code=INTERNAL):
        self.text, self._code = text, code

    def message(self):
        return self.text

    def code(self):
        return self._code


class Response:
    def __init__(self, output_tensors, error=None):
        self.tensors, self._error = output_tensors, error

    def output_tensors(self):
        return self.tensors

    def error(self):
        return self._error

    def has_error(self):
        return self._error is not None

    @property
    def outputs(self):
        return {tensor.name(): tensor.array for tensor in self.tensors}


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    pass


class Metric:
    def __init__(self, values, key):
        self.values, self.key = values, key

    def increment(self, value):
        self.values[self.key] = self.values.get(self.key, 0) + value

    def observe(self, _seconds):
        self.increment(1)


def stub_module() -> ModuleType:
    """`explain` answers inner requests, `asked` holds them, `values` the metrics and `log` what was logged."""
    fake = ModuleType("triton_python_backend_utils")
    fake.values, fake.log, fake.asked = {}, [], []
    fake.Tensor, fake.InferenceResponse, fake.TritonError = Tensor, Response, TritonError
    fake.TritonModelException = TritonModelException
    fake.Logger = SimpleNamespace(log_warn=fake.log.append, log_error=fake.log.append)
    fake.get_input_tensor_by_name = lambda request, name: request.inputs.get(name)

    class Family:
        COUNTER, HISTOGRAM = range(2)

        def __init__(self, name, description, kind):
            self.name = name

        def Metric(self, labels, buckets=None):  # noqa: N802 - Triton's name
            return Metric(fake.values, (self.name, *sorted(labels.items())))

    class Request:
        def __init__(self, **given):
            self.given = given

        def exec(self):
            fake.asked.append(self.given)
            return fake.explain({tensor.name(): tensor.array for tensor in self.given["inputs"]})

    fake.MetricFamily, fake.InferenceRequest = Family, Request
    return fake
