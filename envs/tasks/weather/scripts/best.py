import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesRegressor

train = pd.read_csv("train.csv")
test = pd.read_csv("test.csv")
targets = ["temp_next", "humid_next", "wind_next"]


def features(table):
    angle, turn = np.deg2rad(table["wind_dir"].fillna(0)), 2 * np.pi * table["hour"] / 24
    table = table.assign(east=np.sin(angle), north=np.cos(angle), sun=np.cos(turn), day=np.sin(turn))
    return table[["temp", "dewp", "humid", "wind_speed", "pressure", "visib", "east", "north", "sun", "day"]].ffill().bfill()


model = ExtraTreesRegressor(n_estimators=60, min_samples_leaf=10, max_features=0.5, random_state=0)
model.fit(features(train), train[targets])

prediction = model.predict(features(test))
pd.DataFrame(prediction, columns=targets, index=test["id"]).to_csv("submission.csv")
