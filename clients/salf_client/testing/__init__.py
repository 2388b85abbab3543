"""For the tests of services that use the client: a server in this process that keeps the whole contract.

```python
from salf_client import Client
from salf_client.testing import mock_server

with mock_server(classes=["cat", "dog"], concepts=["tail", "fur", "leash"]) as server:
    print(Client(server.address).explain(picture))
```

It is a real gRPC server that speaks KServe v2; what it knows is drawn from a seed. `salf_client.testing.plugin` has the
pytest fixture `salf_server`.
"""

from salf_client.testing.answers import MockModel
from salf_client.testing.kserve import MockServer, mock_server

__all__ = ["MockModel", "MockServer", "mock_server"]
