from medusa_bench.api import MedusaBenchError as MedusaBenchError
from medusa_bench.api import Results as Results
from medusa_bench.api import compare as compare
from medusa_bench.api import load as load
from medusa_bench.api import predict as predict
from medusa_bench.api import roofline as roofline

__version__: str
